"""How callers wait for searches: for the answers, event by event, or for many calls as one.

A caller who leaves, by an error, an interrupt or because its task is cancelled, takes its searches
along: they end before the next tick of the engine.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

from w2s_chains.core.events import Event, Failed, Finished
from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.scheduler import Engine

T = TypeVar("T")
Listener = Callable[[Event], None]


class Together:
    """Calls of one batch: they share a listener, and the first that fails ends all of them."""

    def __init__(self, listener: Listener | None) -> None:
        self.listener = listener
        self._lock = threading.Lock()
        self._running: set[SearchHandle] = set()
        self._given_up = False

    def add(self, running: Iterable[SearchHandle]) -> None:
        with self._lock:
            self._running.update(running)
        if self._given_up:
            self.give_up()

    def remove(self, running: Iterable[SearchHandle]) -> None:
        with self._lock:
            self._running.difference_update(running)

    def give_up(self) -> None:
        """Cancel the searches of all calls, and those that they are about to start."""
        self._given_up = True
        with self._lock:
            for one in self._running:
                one.cancel()


_together: ContextVar[Together | None] = ContextVar("together", default=None)


def listener_of_batch() -> Listener | None:
    """The listener of the batch that this call belongs to."""
    group = _together.get()
    return None if group is None else group.listener


@contextmanager
def _grouped(listener: Listener | None) -> Generator[Together]:
    group = Together(listener)
    token = _together.set(group)
    try:
        yield group
    finally:
        _together.reset(token)


def call_all(
    calls: Sequence[Callable[[], T]], executor: Executor, listener: Listener | None
) -> list[T]:
    """Make calls side by side; the first error ends all of them.

    Args:
        calls: What is called; each in a thread that knows the caller's context variables.
        executor: Runs them.
        listener: Called with the events of all their searches.
    """
    with _grouped(listener) as group:
        futures = [executor.submit(call) for call in calls]
        try:
            return _results(futures)
        except BaseException:
            group.give_up()
            for future in futures:
                future.cancel()
            raise


async def acall_all(
    calls: Sequence[Callable[[], Awaitable[T]]], limit: int | None, listener: Listener | None
) -> list[T]:
    """Await calls side by side, at most ``limit`` at once; the first error ends all of them."""
    room = asyncio.Semaphore(limit) if limit else nullcontext()

    async def gated(call: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await call()

    with _grouped(listener):
        tasks = [asyncio.ensure_future(gated(call)) for call in calls]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            raise


@contextmanager
def _submitted(
    engine: Engine, jobs: Sequence[Job], listener: Listener | None
) -> Generator[list[SearchHandle]]:
    group = _together.get()
    running = engine.submit(jobs, listener)
    if group is not None:
        group.add(running)
    try:
        yield running
    finally:
        for one in running:
            if not one.future.done():
                one.cancel()
        if group is not None:
            group.remove(running)


def _results(futures: Sequence[Future[T]]) -> list[T]:
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        if future.done() and (error := future.exception()):
            raise error
    return [future.result() for future in futures]


def answers(engine: Engine, jobs: Sequence[Job], listener: Listener | None) -> list[Finished]:
    """Run searches in one submission and wait for their answers; the first error is raised."""
    with _submitted(engine, jobs, listener) as running:
        return _results([one.future for one in running])


async def aanswers(
    engine: Engine, jobs: Sequence[Job], listener: Listener | None
) -> list[Finished]:
    """Run searches in one submission and await their answers; the first error is raised."""
    with _submitted(engine, jobs, listener) as running:
        return await asyncio.gather(*(asyncio.wrap_future(one.future) for one in running))


def follow(
    engine: Engine, jobs: Sequence[Job], listener: Listener | None
) -> Generator[tuple[int, Event]]:
    """Run searches and yield what they tell, each event with the index of its job.

    ``listener`` is called on the engine's thread, whoever iterates does so on the caller's. The
    first error is raised.
    """
    events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    with ExitStack() as stack:
        for index, job in enumerate(jobs):
            tell = partial(_tell, events.put, index, listener)
            stack.enter_context(_submitted(engine, [job], tell))
        left = len(jobs)
        while left:
            index, event = events.get()
            left -= _is_last(event)
            yield index, event


async def afollow(
    engine: Engine, jobs: Sequence[Job], listener: Listener | None
) -> AsyncGenerator[tuple[int, Event]]:
    """Like ``follow``, from an event loop."""
    events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
    put = partial(asyncio.get_running_loop().call_soon_threadsafe, events.put_nowait)
    with ExitStack() as stack:
        for index, job in enumerate(jobs):
            tell = partial(_tell, put, index, listener)
            stack.enter_context(_submitted(engine, [job], tell))
        left = len(jobs)
        while left:
            index, event = await events.get()
            left -= _is_last(event)
            yield index, event


def _tell(
    put: Callable[[tuple[int, Event]], object], index: int, listener: Listener | None, event: Event
) -> None:
    if listener is not None:
        listener(event)
    put((index, event))


def _is_last(event: Event) -> bool:
    if isinstance(event, Failed):
        raise event.error
    return isinstance(event, Finished)
