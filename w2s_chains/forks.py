"""What forks need: ``watch_forks``, ``ForkSafeLock`` and ``wait_until_gone``.

A child has one thread, the one that forked. What another thread of its parent had locked stays
locked there, and what that thread was doing stays half done.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from pathlib import Path

PATIENCE = 10.0
"""Seconds that a fork waits for work under way."""


class Forking:
    """Base of what a fork should wait for, or a child must not keep."""

    def before_fork(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for work under way; return whether it has ended."""
        return True

    def after_fork(self, ready: bool, in_child: bool) -> None:
        """Go on in the parent, or start anew in the child; ``ready`` is what was returned."""
        raise NotImplementedError


def watch_forks(owner: Forking) -> None:
    """Call ``owner`` before and after every fork, for as long as it exists."""
    _owners.add(owner)


class ForkSafeLock(Forking):
    """A reentrant lock that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        watch_forks(self)

    def after_fork(self, ready: bool, in_child: bool) -> None:
        if in_child:
            self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def wait_until_gone(thread: threading.Thread, timeout: float) -> None:
    """Wait for the end of a thread, and of what the system and OpenMP still do at its end."""
    end = time.monotonic() + timeout
    thread.join(timeout)
    task = Path(f"/proc/self/task/{thread.native_id}")
    while task.exists() and time.monotonic() < end:
        time.sleep(0.001)


class _Fork(threading.local):
    """The fork under way on this thread."""

    owners: tuple[tuple[Forking, bool], ...] = ()

    def before(self) -> None:
        end = time.monotonic() + PATIENCE
        owners = sorted(_owners, key=id)  # in one order, or two forks could wait for each other
        self.owners = tuple((o, o.before_fork(max(0.0, end - time.monotonic()))) for o in owners)

    def after(self, in_child: bool) -> None:
        owners, self.owners = self.owners, ()
        for owner, ready in owners:
            owner.after_fork(ready, in_child)
        if in_child and (torch := sys.modules.get("torch")) is not None:
            # The thread that forked would wait for OpenMP's threads, which a child lacks.
            torch.set_num_threads(1)


_owners: weakref.WeakSet[Forking] = weakref.WeakSet()
_fork = _Fork()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_fork.before,
        after_in_parent=lambda: _fork.after(in_child=False),
        after_in_child=lambda: _fork.after(in_child=True),
    )
