"""Run coroutines from synchronous code, on one event loop shared by the whole process.

While a part waits for a server or for another thread, whoever runs the part (the engine) can do
other work: it sets a ``Host``, and every wait is inside ``released``.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, TypeVar, TypeVarTuple, Unpack

import anyio
from anyio.from_thread import BlockingPortal

from w2s_chains.errors import CancelledError

POLL = 0.05
"""Seconds between checks whether a caller that waits was cancelled."""

T = TypeVar("T")
X = TypeVar("X")
Args = TypeVarTuple("Args")


class Host(Protocol):
    """The caller of a part, such as the engine."""

    def cancelled(self) -> bool:
        """Return whether nobody wants the result any more."""
        ...

    def released(self) -> AbstractContextManager[None]:
        """Do other work while this thread waits inside the context."""
        ...


host: ContextVar[Host | None] = ContextVar("host", default=None)
"""Who has called the part that runs in this context."""


def wait_for(call: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
    """Return ``await call(*args)``, run on the shared event loop.

    Connections belong to an event loop, so all of them use the same one.

    Raises:
        CancelledError: The host of this part was cancelled, and the call with it.
    """
    future = _shared_loop().portal.start_task_soon(call, *args)
    owner = host.get()
    try:
        with released():
            while not wait([future], timeout=None if owner is None else POLL).done:
                if owner is not None and owner.cancelled():
                    raise CancelledError("the search was cancelled")
    except BaseException:
        future.cancel()
        raise
    return future.result()


def released() -> AbstractContextManager[None]:
    """Let the host of this part do other work while the code inside waits."""
    owner = host.get()
    return nullcontext() if owner is None else owner.released()


def close_with(owner: object, close: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Call ``close()`` on the running event loop once ``owner`` is garbage.

    If the garbage collector closed connections, it would close sockets whose numbers may belong to
    others by then.
    """
    loop = asyncio.get_running_loop()
    weakref.finalize(owner, _close_soon, loop, close).atexit = False


async def all_of(call: Callable[[X], Awaitable[T]], each: Iterable[X]) -> list[T]:
    """Call all at once and return the results in order; the first error cancels the rest."""
    results: dict[int, T] = {}

    async def keep(index: int, one: X) -> None:
        results[index] = await call(one)

    try:
        async with anyio.create_task_group() as group:
            for index, one in enumerate(each):
                group.start_soon(keep, index, one)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [results[index] for index in sorted(results)]


class _Loop:
    """An event loop on its own thread, for as long as the process lives.

    Not ``anyio.from_thread.start_blocking_portal``: when its context manager is collected in a
    forked child, or while Python exits, it waits for its thread for ever.
    """

    def __init__(self) -> None:
        self._started: Future[tuple[BlockingPortal, asyncio.AbstractEventLoop]] = Future()
        run = partial(anyio.run, self._live)
        threading.Thread(target=run, name="w2s-remote", daemon=True).start()
        self.portal, self.loop = self._started.result()

    async def _live(self) -> None:
        async with BlockingPortal() as portal:
            self._started.set_result((portal, asyncio.get_running_loop()))
            await portal.sleep_until_stopped()


_lock = threading.Lock()
_shared: _Loop | None = None
_kept: list[object] = []
"""Keeps alive what must not be closed: a forked child shares its parent's connections."""


def _shared_loop() -> _Loop:
    global _shared
    with _lock:
        if _shared is None:
            _shared = _Loop()
            atexit.register(_stop)
        return _shared


def _close_soon(
    loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    # Garbage is collected in any thread, even in that of the loop, so this must not wait.
    if _shared is not None and _shared.loop is loop and loop.is_running():
        asyncio.run_coroutine_threadsafe(close(), loop)
    else:
        _kept.append(close)


def _stop() -> None:
    """Cancel all calls: a process that exits does not wait for servers."""
    if _shared is not None:
        _shared.portal.call(_shared.portal.stop, True)


def _forked() -> None:
    global _lock, _shared
    _kept.append(_shared)
    atexit.unregister(_stop)
    _lock, _shared = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
