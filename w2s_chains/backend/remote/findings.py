"""``Findings``: what was found out about a server, for as long as it is the same server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Generic, TypeVar

import anyio

from w2s_chains.errors import W2SError

T = TypeVar("T")

_TRUSTED = 60.0
"""Seconds after which a server may have been replaced without a failed call."""
_CHEAP = 5.0
"""Seconds of a test that may be repeated at once."""


class Findings(Generic[T]):
    """Find something out once; check it again after a failure, or after a minute.

    Coroutines run on the event loop of ``remote.event_loop``. Those that want to know at the same
    time wait for one test, and share its failure: a server that hangs costs each of them one
    timeout. The next call tries again.
    """

    def __init__(
        self,
        find: Callable[[], Awaitable[T]],
        still: Callable[[T], Awaitable[bool]],
        incomplete: Callable[[T], bool] = lambda found: False,
    ) -> None:
        """Find out nothing yet.

        Args:
            find: Tests the server.
            still: Returns whether the server is still the same, at less cost than ``find``.
            incomplete: Returns whether some tests failed in a way that tells nothing.
        """
        self._find, self._still, self._incomplete = find, still, incomplete
        self._found: T | None = None
        self._at = self._cost = 0.0
        self._doubted = False
        self._failures = 0
        self._failure = W2SError()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = anyio.Lock()

    @property
    def known(self) -> bool:
        """Whether the server has been tested."""
        return self._found is not None

    def doubt(self) -> None:
        """Check before the next use whether the server is still the same."""
        self._doubted = True

    async def get(self, afresh: bool = False) -> T:
        """Return what was found; ``afresh`` tests again, as do tests that were incomplete.

        At most half of the time goes into long repetitions. Raises what ``find`` raises.
        """
        before = self._failures
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # in a forked process, whose parent may have held the lock
            self._loop, self._lock = loop, anyio.Lock()
        async with self._lock:
            if self._failures != before:  # while this one waited
                raise copy(self._failure)
            try:
                return await self._get(afresh)
            except W2SError as error:
                self._failures += 1
                self._failure = copy(error)  # without the frames that it holds
                raise

    async def _get(self, afresh: bool) -> T:
        found = self._found
        age = time.monotonic() - self._at
        soon = age < self._cost and self._cost > _CHEAP
        again = not soon and (afresh or (found is not None and self._incomplete(found)))
        if found is not None and not again:
            if not self._doubted and age < _TRUSTED:
                return found
            if await self._still(found):
                self._doubted, self._at = False, time.monotonic()
                return found
        self._found = None
        began = time.monotonic()
        found = await self._find()
        self._found, self._doubted, self._at = found, False, time.monotonic()
        self._cost = self._at - began
        return found
