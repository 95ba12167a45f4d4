"""What a search strategy is, and the three things it can ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from w2s_chains.core.asks import Ask, Commit, Expand, Score
from w2s_chains.core.configs import Plugin
from w2s_chains.core.hypothesis import Hypothesis

Search = Generator[Ask, Any, Hypothesis]


class SearchStrategy(Plugin, ABC):
    """A search as a generator: it yields asks, is sent the answers, and returns the best answer.

    A strategy never touches a model, and it is its own config: a frozen pydantic model with a
    literal ``type``, for example ``{type: chunk_beam, width: 4, successors: 4, chunk_tokens: 5}``.

    Third parties subclass it, give it a ``type`` and register the class under the entry point
    group ``w2s_chains.strategies``.
    """

    @property
    def token_steering(self) -> float:
        """Weight of the guides at every token; 0 where the proposer samples as it is."""
        return 0.0

    @property
    def needs_scorer(self) -> bool:
        """Whether the search asks for scores."""
        return True

    @property
    def scores_partial(self) -> bool:
        """Whether the search asks for scores of texts that go on."""
        return self.needs_scorer

    def kl_bound(self, rounds: int) -> float | None:
        """What choosing adds at most to KL(answers || samples of the proposer), in nats.

        Strategies whose mean over answers is such a bound override this; see
        ``search.kl_bounds``.

        Args:
            rounds: How many times the strategy had asked for children when it got the answer.

        Returns:
            None where no bound is proven.
        """
        return None

    @property
    def branches(self) -> int:
        """Partial answers that grow at once: what an answer costs, relative to one sample."""
        return 1

    @abstractmethod
    def search(self, root: Hypothesis) -> Search:
        """Search for the best answer below ``root``, an empty hypothesis.

        Yields:
            ``Expand`` (answered by the children, a list), ``Score`` (by a list of floats) or
            ``Commit`` (by None).

        Returns:
            The best answer; every committed text is a prefix of it.

        Children are a function of their hypothesis and of the seed: who expands a hypothesis a
        second time gets the same children again, so ask for all of them at once.
        """


def expand(
    hypotheses: Sequence[Hypothesis],
    successors: int,
    chunk_tokens: int | None,
    steering: float = 0.0,
    may_be_whole: bool = False,
) -> Generator[Ask, list[Hypothesis], list[Hypothesis]]:
    """Ask for ``successors`` children of each hypothesis; for the arguments see ``Expand``."""
    children = yield Expand(
        hypotheses=tuple(hypotheses),
        successors=successors,
        chunk_tokens=chunk_tokens,
        may_be_whole=may_be_whole,
        steering=steering,
    )
    return children


def score(hypotheses: Sequence[Hypothesis]) -> Generator[Ask, list[float], list[float]]:
    """Ask for the value of each hypothesis."""
    scores = yield Score(hypotheses=tuple(hypotheses))
    return scores


def commit(hypothesis: Hypothesis) -> Generator[Ask, None, None]:
    """Tell that the text up to ``hypothesis`` can no longer change."""
    yield Commit(hypothesis=hypothesis)


def distinct(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """Identical answers counted once: the first of each stays, in order."""
    first: dict[object, Hypothesis] = {}
    for hypothesis in hypotheses:
        first.setdefault(hypothesis.identity, hypothesis)
    return list(first.values())


def top(hypotheses: Sequence[Hypothesis], scores: Sequence[float], width: int) -> list[Hypothesis]:
    """The ``width`` hypotheses with the highest scores, best first; ties keep their order."""
    ranked = sorted(range(len(hypotheses)), key=lambda i: -scores[i])
    return [hypotheses[i] for i in ranked[:width]]
