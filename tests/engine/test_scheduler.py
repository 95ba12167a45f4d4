"""Who may run, in which order, and who is harmed by what."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers.llms import wait_for_engine
from tests.helpers.polling import until
from tests.helpers.remote_parts import Here
from w2s_chains import (
    CallableScorer,
    Engine,
    Hypothesis,
    Job,
    Sampling,
    SamplingParams,
    SearchStrategy,
)
from w2s_chains.backend.remote.event_loop import released
from w2s_chains.core.asks import Expand, Score
from w2s_chains.core.events import Event
from w2s_chains.engine import scheduler
from w2s_chains.errors import (
    CancelledError,
    ProposerError,
    ScorerError,
    StrategyError,
    W2SError,
)


class Logged(Here):
    """A proposer that writes down who asks it: its own name, and the prompts of each call."""

    def __init__(self, name: str = "", log: list[tuple[str, list[str]]] | None = None) -> None:
        self.name = name
        self.log: list[tuple[str, list[str]]] = [] if log is None else log

    def propose(self, requests: Sequence[Expand]) -> Any:
        self.log.append((self.name, [r.hypotheses[0].prompt.plain_text for r in requests]))
        return super().propose(requests)


class Waits(Logged):
    """One that waits, as those behind a server do, until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.waiting = self.most = 0

    def propose(self, requests: Sequence[Expand]) -> Any:
        self.waiting += len(requests)
        self.most = max(self.most, self.waiting)
        with released():
            assert self.go_on.wait(20)
        self.waiting -= len(requests)
        return super().propose(requests)


def jobs(proposer: Any, prompts: str, max_tokens: int = 2) -> list[Job]:
    return [
        Job(
            root=Hypothesis.root(prompt),
            strategy=Sampling(),
            proposer=proposer,
            sampling=SamplingParams(max_tokens=max_tokens),
        )
        for prompt in prompts
    ]


def texts(handles: Sequence[Any]) -> list[str]:
    return [handle.future.result(timeout=20).text for handle in handles]


@pytest.mark.parametrize("most", [1, 3, 64])
def test_so_many_run_at_once_and_who_comes_first_goes_first(most: int) -> None:
    proposer = Logged()
    assert texts(Engine(max_live=most).submit(jobs(proposer, "abcdefg"))) == [" word" * 2] * 7
    letters = "abcdefg"
    rounds = [letters[at : at + most] for at in range(0, 7, most)]
    assert [prompts for _, prompts in proposer.log] == [list(r) for r in rounds for _ in range(2)]


def test_kinds_start_in_turn_and_share_the_places() -> None:
    log: list[tuple[str, list[str]]] = []
    one, two = Logged("one", log), Logged("two", log)
    texts(Engine(max_live=2).submit([*jobs(one, "abcd"), *jobs(two, "xy")]))
    rounds = [[("one", ["a"]), ("two", ["x"])], [("one", ["b"]), ("two", ["y"])]]
    assert log == [
        call for calls in (*rounds, [("one", ["c", "d"])]) for _ in range(2) for call in calls
    ]


def by_length(factor: float) -> Any:
    return CallableScorer(lambda prompts, texts: [factor * ord(p[0]) for p in prompts])


def test_every_search_gets_the_scores_of_its_own_texts_by_its_own_scorer() -> None:
    one, two = by_length(1.0), by_length(-1.0)
    scored = [
        dataclasses.replace(job, scorer=scorer)
        for job, scorer in zip(jobs(Here(), "abcd"), (one, two, one, one), strict=True)
    ]
    found = [handle.future.result(timeout=20).score for handle in Engine().submit(scored)]
    assert found == [97.0, -98.0, 99.0, 100.0]


def test_scorers_of_one_proposer_are_kinds_too() -> None:
    proposer, one, two = Logged(), by_length(1.0), by_length(2.0)
    scored = [
        dataclasses.replace(job, scorer=scorer)
        for job, scorer in zip(jobs(proposer, "abx", 1), (one, one, two), strict=True)
    ]
    assert len(texts(Engine(max_live=2).submit(scored))) == 3
    assert [prompts for _, prompts in proposer.log] == [["a", "x"], ["b"]]


@pytest.mark.parametrize("part", ["proposer", "scorer"])
def test_repeated_calls_of_a_part_that_waits_wait_at_once(part: str) -> None:
    """Or a server that hangs would hold a group for as many timeouts as it has searches."""
    together = threading.Barrier(3, timeout=10)

    def each(count: int) -> None:
        if count > 1:
            raise RuntimeError("one of them is bad")
        with released():
            together.wait()

    class Alone(Here):
        def propose(self, requests: Sequence[Expand]) -> Any:
            if part == "proposer":
                each(len(requests))
            return super().propose(requests)

        def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
            each(len(hypotheses))
            return [0.0]

    scorer = Alone() if part == "scorer" else None
    made = [dataclasses.replace(job, scorer=scorer) for job in jobs(Alone(), "abc", 1)]
    assert texts(Engine().submit(made)) == [" word"] * 3


def test_a_scorer_that_is_wrong_is_named() -> None:
    class Wrong:
        def score(self, hypotheses: Sequence[Hypothesis]) -> Any:
            return ["high" for _ in hypotheses]

    made = [dataclasses.replace(job, scorer=Wrong()) for job in jobs(Here(), "ab")]
    for handle in Engine().submit(made):
        with pytest.raises(ScorerError, match="the scorer Wrong"):
            handle.future.result(timeout=20)


def test_one_thread_leads_and_holds_no_process() -> None:
    class Told(Logged):
        def propose(self, requests: Sequence[Expand]) -> Any:
            threads.append(threading.current_thread())
            begun.set()
            if len(threads) == 1:
                assert more.wait(20)
            return super().propose(requests)

    threads: list[threading.Thread] = []
    begun, more = threading.Event(), threading.Event()
    engine, proposer = Engine(), Told()
    first = engine.submit(jobs(proposer, "a", 9))
    assert begun.wait(20)
    second = engine.submit(jobs(proposer, "b", 9))
    more.set()
    assert len(texts([*first, *second])) == 2
    assert len(set(threads)) == 1
    assert (threads[0].name, threads[0].daemon) == ("w2s-engine", True)


def test_a_thread_that_comes_back_takes_nothing_with_it() -> None:
    class Gate(Here):
        calls = 0

        def propose(self, requests: Sequence[Expand]) -> Any:
            self.calls += 1
            assert gate.acquire(timeout=20)
            return super().propose(requests)

    gate, waits, leads, engine = threading.Semaphore(0), Waits(), Gate(), Engine()
    away = engine.submit(jobs(waits, "a", 1))
    until(lambda: waits.waiting == 1)
    leading = engine.submit(jobs(leads, "b", 9))
    until(lambda: leads.calls == 1)
    waits.go_on.set()
    until(lambda: len(engine._turns._queue) == 2)  # it waits for its turn to come back
    gate.release()
    assert texts(away) == [" word"]
    until(lambda: leads.calls == 2 and len(engine._turns._queue) == 2)  # and then to end
    late = engine.submit(jobs(Here(), "c"))
    gate.release(99)
    assert texts(late) == [" word" * 2]
    assert texts(leading) == [" word" * 9]


@pytest.mark.parametrize("beside", [False, True])
def test_another_thread_leads_only_those_that_are_here(beside: bool) -> None:
    """A thread with nobody to lead would be started for every call of a server."""

    class Gate(Here):
        def propose(self, requests: Sequence[Expand]) -> Any:
            assert gate.wait(20)
            return super().propose(requests)

    gate, waits, engine = threading.Event(), Waits(), Engine()
    asked = [*jobs(waits, "ab", 1), *(jobs(Gate(), "c", 9) if beside else ())]
    handles = engine.submit(asked)
    until(lambda: waits.waiting == 2)
    gate.set()
    waits.go_on.set()
    assert len(texts(handles)) == len(asked)
    until(lambda: not engine._threads)
    assert len(engine._ended) == 1 + beside


def test_those_that_wait_leave_room_for_other_kinds_but_not_for_their_own() -> None:
    engine, waits, also = Engine(max_live=2), Waits(), Waits()
    first, second = (engine.submit(jobs(one, "abcde", 1)) for one in (waits, also))
    assert texts(engine.submit(jobs(Here(), "xyz"))) == [" word" * 2] * 3
    assert (waits.waiting, also.waiting) == (2, 2)
    assert not waits.log
    waits.go_on.set()
    assert len(texts(first)) == 5
    assert not any(handle.future.done() for handle in second)
    assert (waits.most, also.waiting) == (2, 2)
    also.go_on.set()
    assert len(texts(second)) == 5
    assert also.most == 2
    wait_for_engine(5)


def test_a_closed_engine_cancels_whatever_comes() -> None:
    engine = Engine()
    assert texts(engine.submit(jobs(Here(), "a")))
    engine.close()
    [late] = engine.submit(jobs(Here(), "b"))
    with pytest.raises(CancelledError):
        late.future.result(timeout=20)


def test_only_the_engine_that_waits_refuses_to_be_asked() -> None:
    class Asks(Here):
        def __init__(self, engine: Engine) -> None:
            self.engine = engine

        def propose(self, requests: Sequence[Expand]) -> Any:
            texts(self.engine.submit(jobs(Here(), "x")))
            return super().propose(requests)

    outer = Engine()
    assert texts(outer.submit(jobs(Asks(Engine()), "a"))) == [" word" * 2]
    [refused] = outer.submit(jobs(Asks(outer), "a"))
    with pytest.raises(W2SError, match="engine of its own"):
        refused.future.result(timeout=20)
    assert texts(outer.submit(jobs(Here(), "x"))), "and may be asked afterwards"


class Faulty(Here):
    """A proposer that the engine cannot even ask."""

    @property
    def slice_tokens(self) -> Any:
        raise MemoryError("out of luck")


def test_an_error_in_the_engine_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    engine, waits = Engine(), Waits()
    away = engine.submit(jobs(waits, "ab"))
    assert texts(engine.submit(jobs(Here(), "x"))), "control: the others are away by now"
    failed = engine.submit([*jobs(Faulty(), "c"), *jobs(Here(), "d")])
    for handle in failed:
        with pytest.raises(W2SError, match="the engine failed: MemoryError"):
            handle.future.result(timeout=20)
    assert [r.levelno for r in caplog.records if r.name.endswith("scheduler")] == [logging.ERROR]
    waits.go_on.set()
    assert texts(away) == [" word" * 2] * 2, "what another thread has in hand is not harmed"
    assert texts(engine.submit(jobs(Here(), "e"))), "and the engine goes on"


class Clings(SearchStrategy):
    """Goes on when it is closed."""

    type: str = "clings"

    def search(self, root: Hypothesis) -> Any:
        try:
            while True:
                yield Expand(hypotheses=(root,), successors=1, chunk_tokens=1)
        except GeneratorExit:
            yield root


def test_a_strategy_that_does_not_end_is_left(caplog: pytest.LogCaptureFixture) -> None:
    engine, begun = Engine(), threading.Event()
    good, bad = jobs(Here(), "ab", 500)
    bad = dataclasses.replace(bad, strategy=Clings())
    handles = engine.submit([good, bad], lambda _: begun.set())
    assert begun.wait(20)
    handles[1].cancel()
    with pytest.raises(CancelledError):
        handles[1].future.result(timeout=20)
    assert texts(handles[:1]) == [" word" * 500]
    assert "the strategy 'clings' raised while it was closed" in caplog.text


ODD: list[Any] = [
    Expand(hypotheses=("a text",), successors=1, chunk_tokens=1),  # pyright: ignore[reportArgumentType]
    Expand(hypotheses=(Hypothesis.root("x"),), successors="2", chunk_tokens=1),  # pyright: ignore[reportArgumentType]
    Expand(hypotheses=None, successors=1, chunk_tokens=1),  # pyright: ignore[reportArgumentType]
    Score(hypotheses=([],)),  # pyright: ignore[reportArgumentType]
]


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("ask", ODD, ids=["text", "count", "nothing", "list"])
def test_an_odd_ask_fails_its_own_search(ask: Any, later: bool) -> None:
    class Odd(SearchStrategy):
        type: str = "odd"

        def search(self, root: Hypothesis) -> Any:
            if later:
                yield Expand(hypotheses=(root,), successors=1, chunk_tokens=1)
            yield ask

    good, bad = jobs(Here(), "ab", 4)
    scorer: Any = CallableScorer(lambda prompts, texts: [0.0 for _ in texts])
    one, two = Engine().submit([good, dataclasses.replace(bad, strategy=Odd(), scorer=scorer)])
    with pytest.raises(StrategyError, match=r"'odd' asked for .*, which cannot be answered"):
        two.future.result(timeout=20)
    assert texts([one]) == [" word" * 4]


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), StopIteration()])
def test_a_listener_that_wants_to_leave_stops_nothing(error: BaseException) -> None:
    def listen(event: Event) -> None:
        raise error

    engine = Engine()
    assert texts(engine.submit(jobs(Here(), "ab"), listen)) == [" word" * 2] * 2
    assert texts(engine.submit(jobs(Here(), "c"))) == [" word" * 2]


def test_an_error_at_the_very_begin_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("out of luck")

    engine = Engine()
    with monkeypatch.context() as patch:
        patch.setattr("w2s_chains.engine.search_state.random_stream", broken)
        for handle in engine.submit(jobs(Here(), "ab")):
            with pytest.raises(W2SError, match="the engine failed: MemoryError"):
                handle.future.result(timeout=20)
    assert texts(engine.submit(jobs(Here(), "c"))) == [" word" * 2]


def test_who_is_cancelled_is_not_asked_again_when_a_call_is_repeated() -> None:
    class Together(Logged):
        def propose(self, requests: Sequence[Expand]) -> Any:
            children = super().propose(requests)
            if len(requests) > 1:
                assert begun.wait(20)
                handles[1].cancel()
                raise RuntimeError("one of them is bad")
            return children

    proposer, begun = Together(), threading.Event()
    handles = Engine().submit(jobs(proposer, "abc", 1))
    begun.set()
    assert texts([handles[0], handles[2]]) == [" word"] * 2
    with pytest.raises(CancelledError):
        handles[1].future.result(timeout=20)
    assert [prompts for _, prompts in proposer.log] == [["a", "b", "c"], ["a"], ["c"]]


def test_a_request_may_be_answered_by_an_error_of_its_own() -> None:
    class Partly(Logged):
        def propose(self, requests: Sequence[Expand]) -> Any:
            answers: Any = super().propose(requests)
            answers[1] = ZeroDivisionError("its own fault")
            return answers

    proposer = Partly()
    one, two, three = Engine().submit(jobs(proposer, "abc", 1))
    assert texts([one, three]) == [" word"] * 2
    with pytest.raises(ZeroDivisionError, match="its own fault"):
        two.future.result(timeout=20)
    assert len(proposer.log) == 1, "nobody is asked again"


def test_an_answer_is_missing() -> None:
    class Short(Logged):
        def propose(self, requests: Sequence[Expand]) -> Any:
            return super().propose(requests)[1:]

    handles = Engine().submit(jobs(Short(), "ab", 1))
    for handle in handles:
        with pytest.raises(ProposerError, match="Short answered 0 of 1 requests"):
            handle.future.result(timeout=20)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, None])
def test_an_engine_that_would_run_nothing(wrong: Any) -> None:
    with pytest.raises(W2SError, match=f"max_live is {wrong}; it must be at least 1"):
        Engine(max_live=wrong)


def test_all_engines_are_closed_at_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    both = [SimpleNamespace(close=partial(closed.append, i)) for i in range(2)]
    monkeypatch.setattr(scheduler, "_engines", both)
    scheduler._close_all()
    assert sorted(closed) == [0, 1]
