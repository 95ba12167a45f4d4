"""What a search may commit: texts that every later answer keeps, whatever their chunks."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, cast

import pytest

from tests.benchmarks.tree import Letters
from w2s_chains import Hypothesis, SearchStrategy, StrategyError, commit
from w2s_chains.core.events import Committed, Event, Failed, Finished
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.search_state import SearchState

Steps = Callable[[Hypothesis], Generator[Any, Any, Hypothesis]]


class Scripted(SearchStrategy):
    """Runs a function as its search."""

    type: str = "scripted"
    steps: Any

    def search(self, root: Hypothesis) -> Any:
        return self.steps(root)


def events(steps: Steps, stop: tuple[str, ...] = ()) -> list[Event]:
    told: list[Event] = []
    job = Job(
        root=Hypothesis.root("p"),
        strategy=Scripted(steps=steps),
        proposer=Letters(),
        scorer=None,
        sampling=SamplingParams(stop=stop),
    )
    SearchState(SearchHandle(job, told.append))
    return told


def texts(steps: Steps, stop: tuple[str, ...] = ()) -> list[str]:
    *before, last = events(steps, stop)
    assert isinstance(last, Finished), last
    found = [event.text for event in before if isinstance(event, Committed)]
    assert "".join(found) == last.text
    return found


def done(h: Hypothesis, text: str = "") -> Hypothesis:
    return h.extend(text, finish_reason="eos")


def test_each_commit_streams_what_is_new() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        a = root.extend("ab")
        yield from commit(root)
        yield from commit(a)
        yield from commit(a)
        b = a.extend("c").extend("")
        yield from commit(b)
        yield from commit(a)  # an earlier commit was longer
        return done(b.extend("d"), "e")

    assert texts(steps) == ["ab", "c", "de"]


def test_equal_texts_of_other_branches_are_no_lie() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        yield from commit(root.extend("abc"))
        other = root.extend("a").extend("bcd")
        yield from commit(other)
        yield from commit(root.extend("ab"))
        return done(Hypothesis.root("p").extend("abcdef"))

    assert texts(steps) == ["abc", "d", "ef"]


def test_what_may_begin_a_stop_string_waits() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        a = root.extend("one E")
        yield from commit(a)
        b = a.extend("N")
        yield from commit(b)
        c = b.extend("O")
        yield from commit(c)
        return done(c, " END")

    assert texts(steps, stop=("END", "xy")) == ["one ", "ENO", " END"]


def test_what_waits_again_and_again_is_streamed_once() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        a = root.extend("one E")
        yield from commit(a)
        b = a.extend("NO E")
        yield from commit(b)
        return done(b, "N")

    assert texts(steps, stop=("END", "xy")) == ["one ", "ENO ", "EN"]


def test_a_shorter_text_that_differs_fails_at_once() -> None:
    """Though the answer would go on from what was committed first."""

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        a = root.extend("abc")
        yield from commit(a)
        yield from commit(root.extend("x"))
        return done(a, "d")

    assert isinstance(events(steps)[-1], Failed)


@pytest.mark.parametrize("way", ["commit", "shorter commit", "answer", "shorter answer", "foreign"])
def test_taking_text_back_fails_the_search(way: str) -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        yield from commit(root.extend("abc"))
        if way == "commit":
            yield from commit(root.extend("abd").extend("e"))
        if way == "shorter commit":
            yield from commit(root.extend("x"))
        if way == "foreign":
            yield from commit(Hypothesis.root("p").extend("abd"))
        return done(root, "ab" if way == "shorter answer" else "abd")

    *before, last = events(steps)
    assert [cast("Committed", event).text for event in before if isinstance(event, Committed)] == [
        "abc"
    ]
    assert isinstance(last, Failed)
    assert isinstance(last.error, StrategyError)
    assert "took back committed text: it committed 'abc'" in str(last.error)
