"""``Threads``: calls that cannot be interrupted, with a time limit, a few at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from typing import Any, Generic, TypeVar

from w2s_chains.backend.remote.event_loop import POLL, host, released
from w2s_chains.errors import CancelledError
from w2s_chains.forks import Forking, watch_forks

T = TypeVar("T")


class _Patience:
    """Until when somebody waits for a call.

    The call's context holds this and not the call: an error's frames hold the context, and the
    call holds the error, which would be a circle.
    """

    def __init__(self) -> None:
        self.until = math.inf
        self._lock = threading.Lock()

    def shorten(self, until: float) -> None:
        with self._lock:
            self.until = min(self.until, until)


_patience: ContextVar[_Patience | None] = ContextVar("patience", default=None)


def seconds_left() -> float:
    """Return for how long the caller of the call that runs in this context still waits.

    Nobody can interrupt a thread, so what reads from a server for long asks here whether to go on.
    Infinite outside such calls; not more than 0 once the call is late or abandoned.
    """
    patience = _patience.get()
    return math.inf if patience is None else patience.until - time.monotonic()


class ThreadCall(Generic[T]):
    """A call that has been started; its time limit begins when it gets a place.

    Attributes:
        future: Its result.
    """

    def __init__(self, threads: Threads, call: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self._threads = threads
        self._call = call
        self._patience = _Patience()
        self._lock = threading.Lock()
        self._has_place = False

    def run(self) -> None:
        """Wait for a place and make the call."""
        self._threads.room.acquire()
        self._has_place = True
        try:
            if self.future.set_running_or_notify_cancel():
                self._patience.shorten(time.monotonic() + self._threads.timeout)
                _patience.set(self._patience)
                try:
                    self.future.set_result(self._call())
                except BaseException as error:  # without a result callers would wait for ever
                    self.future.set_exception(error)
        finally:
            self._give_place_back()
            del self  # future, error, traceback and this frame would be a circle

    @property
    def late(self) -> bool:
        """Whether it goes on though nobody waits for it any more."""
        return not self.future.done() and time.monotonic() > self._patience.until

    def abandon(self) -> None:
        """Leave the call to itself: others get its place."""
        self._patience.shorten(-math.inf)
        if not self.future.cancel():
            self._give_place_back()

    def _give_place_back(self) -> None:
        with self._lock:
            had, self._has_place = self._has_place, False
        if had:
            self._threads.room.release()


class Threads(Forking):
    """Runs calls on daemon threads, since a process that exits must not wait for them.

    Attributes:
        timeout: Seconds after which a call is late.
        most: How many calls may run at once.
        room: One place for each of them.
    """

    def __init__(self, most: int, timeout: float) -> None:
        self.timeout = timeout
        self.most = most
        self.room = threading.Semaphore(most)
        watch_forks(self)

    def after_fork(self, ready: bool, in_child: bool) -> None:
        """Free all places in the child, where no call of the parent goes on."""
        if in_child:
            self.room = threading.Semaphore(self.most)

    def start(self, call: Callable[[], T]) -> ThreadCall[T]:
        """Make a call on a thread that inherits the caller's context variables."""
        started = ThreadCall(self, call)
        context = copy_context()
        threading.Thread(
            target=context.run, args=(started.run,), name="w2s-call", daemon=True
        ).start()
        return started


def settle(calls: Sequence[ThreadCall[Any]], release: bool) -> None:
    """Wait until every call is done or late.

    Args:
        calls: The calls.
        release: Let the host of this part do other work in the meantime.

    Raises:
        CancelledError: The host of this part was cancelled.
    """
    owner = host.get()
    pending: list[ThreadCall[Any]] = list(calls)
    with released() if release else nullcontext():
        while pending:
            wait([call.future for call in pending], timeout=POLL)
            if owner is not None and owner.cancelled():
                raise CancelledError("the search was cancelled")
            for call in pending:
                if call.late:
                    call.abandon()
            pending = [call for call in pending if not call.future.done() and not call.late]
