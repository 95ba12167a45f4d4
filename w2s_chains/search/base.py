"""``SearchStrategy``, the base of all strategies, and its asks as functions.

``expand``, ``expand_all``, ``score``, ``token_ratios``, ``commit`` and ``random_stream`` ask;
``distinct`` and ``top`` filter and rank hypotheses, and ``drawn`` draws one.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Self

from pydantic import model_validator

from w2s_chains.core.asks import (
    Ask,
    Commit,
    Expand,
    Expands,
    RandomStream,
    Score,
    TokenRatios,
    Until,
)
from w2s_chains.core.configs import Plugin
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import MOST_BRANCHES

Search = Generator[Ask, Any, Hypothesis]


class SearchStrategy(Plugin, ABC):
    """A search as a generator that yields asks, receives answers and returns the best answer.

    A strategy never touches a model, and it is its own config: a frozen pydantic model with a
    literal ``type``, for example ``{type: chunk_beam, width: 4, successors: 4, chunk_tokens: 5}``.

    To add a strategy, subclass this with a ``type`` of its own and register the class under the
    entry point group ``w2s_chains.strategies``.
    """

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.branches > MOST_BRANCHES:
            raise ValueError(
                f"{self.branches:,} partial answers would grow at once; the most is "
                f"{MOST_BRANCHES:,}, so lower width or successors"
            )
        return self

    @property
    def needs(self) -> frozenset[str]:
        """The abilities of a proposer that the search relies on (``Proposer.abilities``)."""
        return frozenset()

    @property
    def token_steering(self) -> float:
        """Weight of the guides at every token; 0 means unsteered sampling."""
        return 0.0

    @property
    def needs_scorer(self) -> bool:
        """Whether the search asks for scores."""
        return True

    @property
    def scores_partial(self) -> bool:
        """Whether the search asks for scores of unfinished texts."""
        return self.needs_scorer

    @property
    def needs_token_ratios(self) -> bool:
        """Whether the search asks for log-ratios of single tokens (``TokenRatios``)."""
        return False

    def kl_bound(self, rounds: int) -> float | None:
        """Bound how much selection adds to KL(answers || samples of the proposer), in nats.

        The mean over answers must be an upper bound; see ``search.kl_bounds``.

        Args:
            rounds: Number of ``Expand`` asks up to the one that produced the answer.

        Returns:
            The bound; None if none is proven, which is the default.
        """
        return None

    @property
    def branches(self) -> int:
        """Number of partial answers grown at once: the cost relative to one sample."""
        return 1

    @property
    def commits_late(self) -> bool:
        """Whether text is often committed long after it was found, such as at the end."""
        return self.branches > 1

    @abstractmethod
    def search(self, root: Hypothesis) -> Search:
        """Search for the best answer below ``root``, an empty hypothesis.

        Yields:
            ``Expand`` (answered by the list of children), ``Expands`` (by one such list per ask),
            ``Score`` (by a list of floats), ``TokenRatios`` (by a list of tuples of floats),
            ``Commit`` (by None) or ``RandomStream`` (by a ``random.Random``).

        Returns:
            The best answer; every committed text must be a prefix of it.

        Children depend only on their hypothesis, their number and the seed. Expanding a hypothesis
        twice returns the same children; ask for further ones by ``first``.
        """


def expand(
    hypotheses: Sequence[Hypothesis],
    successors: int,
    chunk_tokens: int | None,
    steering: float = 0.0,
    may_be_whole: bool = False,
    *,
    first: int = 0,
    distinct: bool = False,
    until: Until | None = None,
    drafts: bool = False,
    by_guide: bool = False,
) -> Generator[Ask, list[Hypothesis], list[Hypothesis]]:
    """Ask for ``successors`` children of each hypothesis; ``Expand`` documents the arguments."""
    children = yield Expand(
        hypotheses=tuple(hypotheses),
        successors=successors,
        chunk_tokens=chunk_tokens,
        may_be_whole=may_be_whole,
        steering=steering,
        first=first,
        distinct=distinct,
        until=until,
        drafts=drafts,
        by_guide=by_guide,
    )
    return children


def expand_all(
    asks: Iterable[Expand],
) -> Generator[Ask, list[list[Hypothesis]], list[list[Hypothesis]]]:
    """Ask for children of several kinds in one round; return those of each ask."""
    children = yield Expands(asks=tuple(asks))
    return children


def score(hypotheses: Sequence[Hypothesis]) -> Generator[Ask, list[float], list[float]]:
    """Ask for the score of each hypothesis."""
    scores = yield Score(hypotheses=tuple(hypotheses))
    return scores


def token_ratios(
    hypotheses: Sequence[Hypothesis],
) -> Generator[Ask, list[tuple[float, ...]], list[tuple[float, ...]]]:
    """Ask for the log-ratio of both guides for each token of each hypothesis, in nats."""
    ratios = yield TokenRatios(hypotheses=tuple(hypotheses))
    return ratios


def commit(hypothesis: Hypothesis) -> Generator[Ask, None, None]:
    """Declare the text up to ``hypothesis`` final."""
    yield Commit(hypothesis=hypothesis)


def random_stream() -> Generator[Ask, random.Random, random.Random]:
    """Ask for random numbers, which depend on the prompt and the seed alone."""
    numbers = yield RandomStream()
    return numbers


def distinct(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """Drop duplicates: keep the first of identical hypotheses, in order."""
    first: dict[object, Hypothesis] = {}
    for hypothesis in hypotheses:
        first.setdefault(hypothesis.identity, hypothesis)
    return list(first.values())


def top(hypotheses: Sequence[Hypothesis], scores: Sequence[float], width: int) -> list[Hypothesis]:
    """Return the ``width`` best-scored hypotheses, best first; ties keep their order."""
    ranked = sorted(range(len(hypotheses)), key=lambda i: -scores[i])
    return [hypotheses[i] for i in ranked[:width]]


def drawn(
    hypotheses: Sequence[Hypothesis], log_weights: Sequence[float], numbers: random.Random
) -> Hypothesis:
    """Draw a hypothesis with probability proportional to exp(log_weight)."""
    return numbers.choices(hypotheses, relative(log_weights))[0]


def relative(log_weights: Sequence[float]) -> list[float]:
    """Return weights relative to the largest one; equal ones if all are zero."""
    largest = max(log_weights)
    if math.isinf(largest):  # only the infinitely good, or all if all are infinitely bad
        return [float(value == largest) for value in log_weights]
    return [math.exp(value - largest) for value in log_weights]
