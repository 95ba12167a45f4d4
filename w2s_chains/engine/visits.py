"""``Visit``, a call of a part during which other searches can go on, and ``Turns``."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from w2s_chains.backend.remote.event_loop import host
from w2s_chains.engine.search_state import SearchState


class Turns:
    """A lock that threads get in the order in which they ask; who has it may take it again.

    With a plain lock a thread that releases it and asks again at once would starve the others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: deque[tuple[threading.Event, int]] = deque()  # whose turn it is comes first

    def acquire(self, timeout: float | None = None) -> bool:
        """Wait for a turn; return False if there is none within ``timeout`` seconds."""
        me = threading.get_ident()
        mine = (threading.Event(), me)
        with self._lock:
            if not self._queue or self._queue[0][1] == me:
                self._queue.appendleft(mine)
                return True
            self._queue.append(mine)
        if mine[0].wait(timeout):
            return True
        with self._lock:
            if self._queue[0] is mine:
                return True  # it has just come
            self._queue.remove(mine)
            return False

    def release(self) -> None:
        with self._lock:
            self._queue.popleft()
            if self._queue:
                self._queue[0][0].set()


class Visit:
    """A call of a part, most often by the engine's thread; the ``Host`` of that part.

    Attributes:
        owner: The engine.
        group: The searches that the call is for; none if a user calls it.
        open: Whether the call goes on.
    """

    def __init__(
        self,
        owner: object,
        group: Sequence[SearchState],
        leave: Callable[[], None],
        come_back: Callable[[], None],
    ) -> None:
        """Describe a visit; ``leave`` and ``come_back`` let other searches go on."""
        self.owner = owner
        self.group = group
        self.open = True
        self._leave, self._come_back = leave, come_back
        self._thread = threading.current_thread()
        self._away = False

    def cancelled(self) -> bool:
        return bool(self.group) and all(search.running.cancelled for search in self.group)

    @contextmanager
    def released(self) -> Generator[None]:
        # Threads of the part inherit this visit, but only the engine's own has something to give.
        if self._away or not self.open or threading.current_thread() is not self._thread:
            yield
            return
        self._away = True
        self._leave()
        try:
            yield
        finally:
            self._come_back()
            self._away = False

    @contextmanager
    def begun(self) -> Generator[None]:
        """Be the host of all parts that are called inside."""
        token = host.set(self)
        try:
            yield
        finally:
            self.open = False
            host.reset(token)


def asks_itself(engine: object) -> bool:
    """Return whether the calling code belongs to a part that this engine is waiting for."""
    visit = host.get()
    return isinstance(visit, Visit) and visit.open and visit.owner is engine


def set_apart(group: Sequence[SearchState], error: BaseException) -> None:
    """Have a failed call repeated for each search alone, so that only the culprit fails.

    Each is a group of its own in the next tick: those of a part that waits wait at once, or a
    server that hangs would hold a group for as many timeouts as it has searches. Repeating is safe
    because an answer depends only on its request.
    """
    if len(group) == 1:
        group[0].fail(error)
        return
    for search in group:
        search.apart = True
