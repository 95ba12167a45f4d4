"""Scores and log-ratios of tokens: who is asked with whom, and who gets what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.remote_parts import Here
from w2s_chains import Engine, Hypothesis, Job, SamplingParams, SearchStrategy
from w2s_chains.core.asks import Expand, Score, TokenRatios


class Twice(SearchStrategy):
    """Asks for one number of a text, of a longer one, and at once of another one."""

    type: str = "twice"
    kind: Any
    told: Any

    def search(self, root: Hypothesis) -> Any:
        text = root
        for _ in range(2):
            [text] = yield Expand(hypotheses=(text,), successors=1, chunk_tokens=1)
            [found] = yield self.kind(hypotheses=(text,))
            self.told.append((root.prompt.plain_text, found))
        [found] = yield self.kind(hypotheses=(text.extend("!", n_tokens=1),))
        return text


class Judge:
    """A scorer and a pair of guides that fails whatever call it gets as its number ``fails``."""

    def __init__(self, name: str, log: list[Any], fails: int = -1) -> None:
        self.name, self.log, self.fails = name, log, fails

    def asked(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        self.log.append((self.name, [h.prompt.plain_text for h in hypotheses]))
        if len(self.log) - 1 == self.fails:
            raise RuntimeError("a bad moment")
        return [ord(h.prompt.plain_text) + h.n_tokens / 4 for h in hypotheses]

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return self.asked(hypotheses)

    def token_ratios(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, ...]]:
        return [(number, -number) for number in self.asked(hypotheses)]


def run(kind: Any, told: list[Any], judges: Sequence[Any]) -> None:
    proposer: Any = Here()
    part = "scorer" if kind is Score else "guides"
    made = [
        Job(
            root=Hypothesis.root(prompt), strategy=Twice(kind=kind, told=told),
            proposer=proposer, sampling=SamplingParams(max_tokens=3), **{part: judge},
        )
        for prompt, judge in zip("abcd", judges, strict=False)
    ]  # fmt: skip
    handles = Engine().submit(made)
    assert [h.future.result(timeout=20).text for h in handles] == [" word" * 2] * len(made)


def expected(kind: Any, prompts: str) -> list[Any]:
    numbers = [(p, ord(p) + n / 4) for n in (1, 2) for p in prompts]
    return numbers if kind is Score else [(p, (number, -number)) for p, number in numbers]


@pytest.mark.parametrize("kind", [Score, TokenRatios])
def test_one_call_for_all_searches_of_a_part(kind: Any) -> None:
    log: list[Any] = []
    told: list[Any] = []
    one, two = Judge("one", log), Judge("two", log)
    run(kind, told, (one, two, one, one))
    assert log == [("one", ["a", "c", "d"]), ("two", ["b"])] * 3
    assert sorted(told) == sorted(expected(kind, "abcd"))


@pytest.mark.parametrize("kind", [Score, TokenRatios])
@pytest.mark.parametrize("fails", [0, 1])
def test_after_a_call_that_failed_each_is_asked_alone_once(kind: Any, fails: int) -> None:
    log: list[Any] = []
    told: list[Any] = []
    run(kind, told, [Judge("one", log, fails=fails)] * 3)
    calls = [["a", "b", "c"] for _ in range(3)]
    calls[fails + 1 : fails + 1] = [["a"], ["b"], ["c"]]
    assert [prompts for _, prompts in log] == calls
    assert sorted(told) == sorted(expected(kind, "abc"))
