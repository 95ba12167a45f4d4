"""Test strategies without any model: ``drive`` runs a search and tells what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from w2s_chains.core.asks import Ask, Commit, Expand, Expands, RandomStream, Score, TokenRatios
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import random_stream
from w2s_chains.values import as_score

if TYPE_CHECKING:
    from w2s_chains.search.base import SearchStrategy


@dataclass(slots=True, kw_only=True)
class Driven:
    """The record of a driven search.

    Attributes:
        answer: The answer that the search returned.
        asks: All of its asks, in order.
        committed: The committed texts, in order.
    """

    answer: Hypothesis
    asks: list[Ask] = field(default_factory=list[Ask])
    committed: list[str] = field(default_factory=list[str])

    @property
    def expansions(self) -> list[Expand]:
        """All ``Expand`` asks, also those that were asked at once."""
        several = [ask.asks if isinstance(ask, Expands) else (ask,) for ask in self.asks]
        return [ask for asks in several for ask in asks if isinstance(ask, Expand)]


def drive(
    strategy: SearchStrategy,
    propose: Callable[[Expand], Sequence[Hypothesis]],
    value: Callable[[Hypothesis], float],
    prompt: str = "",
    seed: int = 0,
    ratios: Callable[[Hypothesis], Sequence[float]] = lambda hypothesis: (),
) -> Driven:
    """Run a search and answer its asks with plain functions.

    Args:
        strategy: The strategy to run.
        propose: Returns the children for an ``Expand``.
        value: Returns the score of a hypothesis.
        prompt: The prompt to answer.
        seed: Seeds the strategy's own random numbers.
        ratios: Returns the log-ratios of a hypothesis' tokens, for ``TokenRatios``.

    Raises:
        ScorerError: ``value`` returned something else than a number.
    """
    root = Hypothesis.root(prompt)
    trace = Driven(answer=root)
    search = strategy.search(root)
    numbers = random_stream(seed, root.prompt)
    answer: object = None
    while True:
        try:
            ask = search.send(answer)
        except StopIteration as stop:
            trace.answer = stop.value
            return trace
        trace.asks.append(ask)
        if isinstance(ask, Expand):
            answer = list(propose(ask))
        elif isinstance(ask, Expands):
            answer = [list(propose(own)) for own in ask.asks]
        elif isinstance(ask, Score):
            answer = [as_score(value(h), h, "value") for h in ask.hypotheses]
        elif isinstance(ask, TokenRatios):
            answer = [tuple(ratios(h)) for h in ask.hypotheses]
        elif isinstance(ask, RandomStream):
            answer = numbers
        else:
            assert isinstance(ask, Commit)
            trace.committed.append(ask.hypothesis.response)
            answer = None


Trace = Driven  # its name until ``w2s_chains.Trace`` came
