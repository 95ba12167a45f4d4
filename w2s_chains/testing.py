"""Drive a search by hand, without any model: for tests of strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from w2s_chains.core.asks import Ask, Commit, Expand, Score
from w2s_chains.core.hypothesis import Hypothesis

if TYPE_CHECKING:
    from w2s_chains.search.base import SearchStrategy


@dataclass(slots=True, kw_only=True)
class Trace:
    """What a driven search did.

    Attributes:
        answer: What the search returned.
        asks: Everything it asked for, in order.
        committed: Texts of the commits, in order.
    """

    answer: Hypothesis
    asks: list[Ask] = field(default_factory=list[Ask])
    committed: list[str] = field(default_factory=list[str])

    @property
    def expansions(self) -> list[Expand]:
        return [ask for ask in self.asks if isinstance(ask, Expand)]


def drive(
    strategy: SearchStrategy,
    propose: Callable[[Expand], Sequence[Hypothesis]],
    value: Callable[[Hypothesis], float],
    prompt: str = "",
) -> Trace:
    """Run a search whose asks are answered by plain functions.

    Args:
        strategy: The search.
        propose: Children for an ``Expand``.
        value: The score of one hypothesis.
        prompt: What the root answers.
    """
    root = Hypothesis.root(prompt)
    trace = Trace(answer=root)
    search = strategy.search(root)
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
        elif isinstance(ask, Score):
            answer = [value(h) for h in ask.hypotheses]
        else:
            assert isinstance(ask, Commit)
            trace.committed.append(ask.hypothesis.response)
            answer = None
