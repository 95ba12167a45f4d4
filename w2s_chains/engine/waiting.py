"""Waiting for searches: ``EventStream`` for the events of one call, ``Together`` for a batch.

When a caller leaves early, because of an error, an interrupt or a cancelled task, its searches are
cancelled and end before the next tick of the engine.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any, Self

import anyio
from anyio.lowlevel import checkpoint, current_token

from w2s_chains.core.events import Event, Failed, Finished, Grown, Scored
from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.scheduler import Engine
from w2s_chains.errors import W2SError

Listener = Callable[[Event], None]


class EventStream:
    """Iterates over the events of searches as they happen, sync or async.

    Every item is the index of a job and an event; the last one of each job is its ``Finished``.
    The first error is raised and ends the stream. Entering starts the searches, and leaving cancels
    those still running. Neither blocks, so use ``with`` in coroutines too::

        with EventStream(engine, jobs, (Committed,)) as events:
            for index, event in events:  # or: async for
                ...
    """

    _searches: Sequence[SearchHandle] = ()

    def __init__(
        self,
        engine: Engine,
        jobs: Sequence[Job],
        wanted: tuple[type[Event], ...] = (),
        listener: Listener | None = None,
    ) -> None:
        """Prepare the stream; entering it starts the searches.

        Args:
            engine: Runs the searches, all starting in the same tick.
            jobs: Checked jobs (``Job.check``).
            wanted: The types of events to yield in addition to ``Finished``; with ``Grown``, the
                searches are traced.
            listener: Called with the events of these types, and with text and progress, on the
                engine's thread.
        """
        self.engine = engine
        self.jobs = jobs
        self.wanted = wanted
        self.listener = listener
        self._events = _Mailbox()
        self._left = len(jobs)
        self._process = os.getpid()
        self._batch: Together | None = None

    def __enter__(self) -> Self:
        told = (*self.wanted, Finished, Failed)
        watched = bool(self.wanted) or self.listener is not None
        self._searches = [
            SearchHandle(
                job,
                partial(_tell, self._events, i, told, self.listener),
                watched,
                traced=Grown in told,
                scored=Scored in told,
            )
            for i, job in enumerate(self.jobs)
        ]
        self._batch = _batch.get()
        self.engine.start(self._searches)
        if self._batch is not None:
            self._batch.add(self._searches)
        return self

    def __exit__(self, *_: object) -> None:
        for search in self._searches:
            if not search.future.done():
                search.cancel()
        if self._batch is not None:
            self._batch.remove(self._searches)

    def __del__(self) -> None:
        """Cancel as well when the stream's event loop was closed, which forgets to leave it."""
        for search in self._searches:
            search.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[int, Event]:
        if not self._goes_on():
            raise StopIteration
        return self._opened(self._events.get())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        if not self._goes_on():
            raise StopAsyncIteration
        return self._opened(await self._events.get_async())

    def _goes_on(self) -> bool:
        if self._process != os.getpid():
            raise W2SError(
                "this answer was begun before the process forked, and only the parent goes on with "
                "it; call the model anew in the child"
            )
        return bool(self._left)

    def _opened(self, item: tuple[int, Event]) -> tuple[int, Event]:
        if isinstance(item[1], Failed):
            raise item[1].error
        self._left -= isinstance(item[1], Finished)
        return item


def _tell(
    events: _Mailbox,
    index: int,
    told: tuple[type[Event], ...],
    listener: Listener | None,
    event: Event,
) -> None:
    try:
        if listener is not None:
            listener(event)
    finally:
        if isinstance(event, told):
            events.put((index, event))


class _Mailbox:
    """A queue filled by the engine's thread and read from another thread or an event loop."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        self._wake: Callable[[], object] | None = None  # set while a reader waits on an event loop

    def put(self, item: tuple[int, Event]) -> None:
        self._items.put(item)
        wake, self._wake = self._wake, None
        if wake is not None:
            with suppress(RuntimeError):  # the loop has just been closed
                wake()

    def get(self) -> tuple[int, Event]:
        return self._items.get()

    async def get_async(self) -> tuple[int, Event]:
        await checkpoint()  # let other tasks run between many events
        while self._items.empty():
            arrived = anyio.Event()
            self._wake = _from_other_threads(arrived.set)
            try:
                if self._items.empty():  # again, after setting ``_wake``, so that no item is missed
                    await arrived.wait()
            finally:
                self._wake = None
        return self._items.get_nowait()


def _from_other_threads(call: Callable[[], object]) -> Callable[[], object]:
    """Wrap ``call`` so that other threads can schedule it on this asyncio or trio loop."""
    loop: Any = current_token().native_token
    soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    return partial(soon, call)


class Together:
    """The calls of one batch: they share a listener, and the first failure cancels them all."""

    def __init__(self, listener: Listener | None) -> None:
        self.listener = listener
        self._lock = threading.Lock()
        self._searches: set[SearchHandle] = set()
        self._given_up = False

    def add(self, searches: Iterable[SearchHandle]) -> None:
        with self._lock:
            self._searches.update(searches)
        if self._given_up:
            self.give_up()

    def remove(self, searches: Iterable[SearchHandle]) -> None:
        with self._lock:
            self._searches.difference_update(searches)

    def give_up(self) -> None:
        """Cancel the searches of all calls, including those not started yet."""
        self._given_up = True
        with self._lock:
            for search in self._searches:
                search.cancel()

    def in_threads(
        self, calls: Sequence[Callable[[], object]], limit: int, keep_errors: bool = False
    ) -> list[Any]:
        """Run calls in parallel threads that inherit the caller's context variables.

        Args:
            calls: The functions to call.
            limit: Maximum number of calls at once.
            keep_errors: Return the error of a call as its result; otherwise the first error ends
                all calls.
        """
        with ThreadPoolExecutor(limit) as executor, self._begun() as begun:
            futures = [executor.submit(copy_context().run, call) for call in calls]
            begun += futures
            wait(futures, return_when=ALL_COMPLETED if keep_errors else FIRST_EXCEPTION)
            if not keep_errors:
                for future in futures:
                    if future.done():
                        future.result()
            return [future.exception() or future.result() for future in futures]

    async def in_tasks(
        self,
        calls: Sequence[Callable[[], Awaitable[object]]],
        limit: int | None = None,
        keep_errors: bool = False,
    ) -> list[Any]:
        """Like ``in_threads``, but in tasks of this event loop; by default all at once."""
        room = asyncio.Semaphore(limit or max(len(calls), 1))

        async def gated(call: Callable[[], Awaitable[object]]) -> object:
            async with room:
                return await call()

        with self._begun() as begun:
            tasks = [asyncio.create_task(gated(call)) for call in calls]
            begun += tasks
            return await asyncio.gather(*tasks, return_exceptions=keep_errors)

    @contextmanager
    def _begun(self) -> Generator[list[Future[Any] | asyncio.Task[Any]]]:
        """Add calls started inside to this batch; on an error, cancel the listed ones."""
        token = _batch.set(self)
        begun: list[Future[Any] | asyncio.Task[Any]] = []
        try:
            yield begun
        except BaseException:
            self.give_up()
            for call in begun:
                call.cancel()
            raise
        finally:
            _batch.reset(token)


_batch: ContextVar[Together | None] = ContextVar("batch", default=None)


def listener_of_batch() -> Listener | None:
    """Return the listener of the batch that this call belongs to, if any."""
    batch = _batch.get()
    return None if batch is None else batch.listener
