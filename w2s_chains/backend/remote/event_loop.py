"""Run coroutines from synchronous code, on one event loop shared by the whole process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.RLock()  # reentrant, since garbage collection may call ``later`` while it is held
_loop: asyncio.AbstractEventLoop | None = None


def wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` on the shared event loop and return its result.

    Connections belong to an event loop, so all of them use the same one.
    """
    return asyncio.run_coroutine_threadsafe(coroutine, _shared_loop()).result()


def later(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Schedule ``call()`` on the shared event loop without waiting for it."""
    asyncio.run_coroutine_threadsafe(call(), _shared_loop())


def _shared_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="w2s-remote", daemon=True).start()
        return _loop


async def all_of(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results in order; the first error cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
