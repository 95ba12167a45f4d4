"""One stream of events under sync and async."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.llms import wait_for_engine
from w2s_chains import Engine, Hypothesis, Job, Sampling, SamplingParams
from w2s_chains.core.asks import Expand
from w2s_chains.core.events import Committed, Event, Finished, Progressed
from w2s_chains.engine.waiting import EventStream


class Counting:
    """A proposer that counts: one more word at every call, and an error if it reaches ``bad``."""

    slice_tokens: int | None = 1

    def __init__(self, bad: int | None = None) -> None:
        self.calls = itertools.count(1)
        self.last = 0
        self.bad = bad

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        self.last = next(self.calls)
        if self.last == self.bad:
            raise ZeroDivisionError
        return [
            [
                h.extend(
                    f" {h.n_tokens}",
                    n_tokens=1,
                    finish_reason="length" if h.n_tokens + 1 == r.sampling.max_tokens else None,
                )
                for h in r.hypotheses
            ]
            for r in requests
        ]


def jobs(proposer: Counting, count: int = 2, max_tokens: int = 5) -> list[Job]:
    sampling = SamplingParams(max_tokens=max_tokens)
    return [
        Job(root=Hypothesis.root(f"{i}"), strategy=Sampling(), proposer=proposer, sampling=sampling)  # pyright: ignore[reportArgumentType]
        for i in range(count)
    ]


def read(stream: EventStream) -> list[tuple[int, Event]]:
    with stream as events:
        return list(events)


async def read_async(stream: EventStream) -> list[tuple[int, Event]]:
    with stream as events:
        return [item async for item in events]


async def test_both_ways_to_read_give_the_same() -> None:
    wanted = (Committed, Progressed)
    found = read(EventStream(Engine(), jobs(Counting()), wanted))
    assert await read_async(EventStream(Engine(), jobs(Counting()), wanted)) == found
    assert [event.text for i, event in found if i == 1 and isinstance(event, Finished)] == [
        " 0 1 2 3 4"
    ]
    assert sum(event.tokens for _, event in found if isinstance(event, Progressed)) == 10


async def test_answers_alone() -> None:
    heard: list[Event] = []
    for listener in (None, heard.append):
        found = read(EventStream(Engine(), jobs(Counting(), 3), listener=listener))
        assert sorted(index for index, _ in found) == [0, 1, 2]
        assert all(isinstance(event, Finished) for _, event in found)
        assert await read_async(EventStream(Engine(), jobs(Counting(), 3))) == found
    assert any(isinstance(event, Progressed) for event in heard), "the listener hears the others"
    assert read(EventStream(Engine(), [])) == await read_async(EventStream(Engine(), [])) == []


async def test_the_first_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        read(EventStream(Engine(), jobs(Counting(bad=3), 1)))
    with pytest.raises(ZeroDivisionError):
        await read_async(EventStream(Engine(), jobs(Counting(bad=3), 1)))


def test_a_stream_that_was_never_entered_is_left_without_a_word() -> None:
    stream = EventStream(Engine(), jobs(Counting()))
    stream.__exit__()
    stream.__del__()


def test_searches_are_watched_if_somebody_wants_more_than_answers() -> None:
    ways: list[tuple[Any, Any, bool]] = [
        ((), None, False), ((Committed,), None, True), ((), print, True),
    ]  # fmt: skip
    for wanted, listener, watched in ways:
        with EventStream(Engine(), jobs(Counting(), 1), wanted, listener) as stream:
            assert [search.watched for search in stream._searches] == [watched]


async def test_whoever_leaves_ends_the_searches() -> None:
    for way in ("sync", "async", "cancelled"):
        engine, proposer = Engine(), Counting()
        stream = EventStream(engine, jobs(proposer, 1, 100_000), (Progressed,))
        if way == "sync":
            with stream as events:
                next(events)
        elif way == "async":
            with stream as events:
                await anext(events)
        else:
            task = asyncio.create_task(read_async(stream))
            async with asyncio.timeout(20):
                while proposer.last < 3:
                    await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        wait_for_engine(10)  # though the stream is still there
        assert proposer.last < 50_000, way
        assert stream


async def test_the_loop_stays_free_and_is_not_called_once_it_has_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, proposer = Engine(), Counting()
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    heart = asyncio.create_task(beat())
    await read_async(EventStream(engine, jobs(proposer, 1, 200), (Progressed,)))
    heart.cancel()
    assert beats >= 200

    # A loop that is closed while its search goes on.
    async def leave() -> None:
        await anext(EventStream(engine, jobs(Counting(), 1, 300), (Progressed,)).__enter__())

    thread = threading.Thread(target=asyncio.run, args=(leave(),))
    thread.start()
    thread.join()
    assert len(read(EventStream(engine, jobs(Counting(), 1, 5)))) == 1
    assert not caplog.records
