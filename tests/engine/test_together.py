"""The calls of one batch: their order, how many run at once, and what the first error ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

from w2s_chains.core.events import Event
from w2s_chains.engine.waiting import Together, _from_other_threads, _Mailbox, listener_of_batch

whose: ContextVar[str] = ContextVar("whose", default="nobody's")


class Cancelled:
    """Stands for a search: knows whether it was cancelled."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def cancel(self) -> None:
        self.event.set()


class Room:
    """Counts how many are inside at once; nobody leaves before ``together`` of them were."""

    def __init__(self, together: int) -> None:
        self.inside = self.most = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(together, timeout=10)

    def __call__(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self._barrier.wait()
        with self._lock:
            self.inside -= 1


def listen(event: Event) -> None:
    """Do nothing."""


def divide(by: int) -> Callable[[], Any]:
    return lambda: 12 // by


def asked(call: Callable[[], Any]) -> Callable[[], Any]:
    async def task() -> Any:
        await asyncio.sleep(0)
        return call()

    return task


def run(calls: list[Callable[[], Any]], *, tasks: bool, limit: int = 3, **options: Any) -> Any:
    group = Together(listen)
    if tasks:
        return asyncio.run(group.in_tasks([asked(call) for call in calls], limit, **options))
    return group.in_threads(calls, limit, **options)


@pytest.mark.parametrize("tasks", [False, True])
def test_results_are_in_order_and_errors_among_them_if_wanted(tasks: bool) -> None:
    assert run([divide(i) for i in (1, 2, 3, 4, 6)], tasks=tasks) == [12, 6, 4, 3, 2]
    assert run([], tasks=tasks) == []
    found = run([divide(i) for i in (1, 0, 3)], tasks=tasks, keep_errors=True)
    assert (found[0], type(found[1]), found[2]) == (12, ZeroDivisionError, 4)
    with pytest.raises(ZeroDivisionError):
        run([divide(i) for i in (1, 0, 3)], tasks=tasks)


@pytest.mark.parametrize("tasks", [False, True])
def test_calls_see_what_their_caller_sees_and_the_batch(tasks: bool) -> None:
    whose.set("mine")
    assert listener_of_batch() is None
    seen = run([lambda: (whose.get(), listener_of_batch())] * 2, tasks=tasks)
    assert seen == [("mine", listen)] * 2
    assert listener_of_batch() is None, "only inside"


def test_a_batch_within_a_batch() -> None:
    def inner() -> object:
        return [*Together(None).in_threads([listener_of_batch], 1), listener_of_batch()]

    assert run([inner], tasks=False) == [[None, listen]]


def test_threads_run_at_once_up_to_the_limit() -> None:
    room = Room(3)
    run([room] * 6, tasks=False, limit=3)
    assert room.most == 3


@pytest.mark.parametrize(("limit", "met"), [(1, False), (2, True)])
def test_no_more_threads_run_at_once(limit: int, met: bool) -> None:
    begun = [threading.Event(), threading.Event()]

    def call(i: int) -> bool:
        begun[i].set()
        return begun[1 - i].wait(0.05 if limit == 1 else 10)

    assert run([lambda: call(0), lambda: call(1)], tasks=False, limit=limit)[0] is met


@pytest.mark.parametrize(("limit", "most"), [(None, 5), (2, 2), (1, 1)])
async def test_tasks_run_at_once_up_to_the_limit(limit: int | None, most: int) -> None:
    inside: list[int] = [0]

    async def call() -> None:
        inside.append(inside[-1] + 1)
        for _ in range(5):
            await asyncio.sleep(0)
        inside.append(inside[-1] - 1)

    await Together(None).in_tasks([call] * 5, limit)
    assert max(inside) == most
    assert await Together(None).in_tasks([]) == []


def test_the_first_error_cancels_what_runs_and_what_waits_for_a_thread() -> None:
    group, running, begun = Together(None), Cancelled(), list[int]()
    searches: Any = [running]

    def slow() -> None:
        group.add(searches)
        added.set()
        assert running.event.wait(10), "nobody cancelled it"

    def fail() -> None:
        added.wait(10)
        raise ZeroDivisionError

    added = threading.Event()
    with pytest.raises(ZeroDivisionError):
        group.in_threads([slow, fail, *[lambda: begun.append(1)] * 50], 1 + 1)
    assert running.event.is_set()
    assert len(begun) < 50


async def test_the_first_error_cancels_tasks() -> None:
    group, running, told = Together(None), Cancelled(), list[str]()
    searches: Any = [running]

    async def slow() -> None:
        group.add(searches)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await group.in_tasks([slow, fail])
    assert running.event.is_set()
    await asyncio.sleep(0)
    assert told == ["cancelled"]


def test_an_error_that_is_kept_cancels_nobody() -> None:
    group, search = Together(None), Cancelled()
    searches: Any = [search]
    group.add(searches)
    group.in_threads([divide(0)], 1, keep_errors=True)
    assert not search.event.is_set()


def test_what_was_removed_is_not_cancelled_and_what_comes_late_is() -> None:
    group = Together(None)
    left, stays, late = Cancelled(), Cancelled(), Cancelled()
    first: Any = [left, stays]
    group.add(first)
    group.remove(first[:1])
    group.give_up()
    assert (left.event.is_set(), stays.event.is_set()) == (False, True)
    last: Any = [late]
    group.add(last)
    assert late.event.is_set()


def test_a_mailbox_wakes_its_reader_once_and_outlives_its_loop() -> None:
    box, woken = _Mailbox(), list[int]()
    item: Any = (0, "event")
    box.put(item)
    assert box.get() == item, "nobody waits"

    def closed() -> None:
        woken.append(1)
        raise RuntimeError("Event loop is closed")

    box._wake = closed
    box.put(item)
    box.put(item)
    assert woken == [1]
    assert [box.get(), box.get()] == [item] * 2
    box._wake = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):  # control: other errors are told
        box.put(item)


async def test_a_reader_that_was_cancelled_is_not_woken() -> None:
    box = _Mailbox()
    reader = asyncio.create_task(box.get_async())
    for _ in range(10):
        await asyncio.sleep(0)
    assert box._wake is not None
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert box._wake is None
    item: Any = (0, "event")
    box.put(item)
    assert await box.get_async() == item


def test_a_loop_of_trio_is_called_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    loop = SimpleNamespace(run_sync_soon=lambda *what: called.append(what))
    token = SimpleNamespace(native_token=loop)
    monkeypatch.setattr("w2s_chains.engine.waiting.current_token", lambda: token)
    _from_other_threads(print)()
    assert called == [(print,)]
