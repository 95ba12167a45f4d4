"""``Limits`` of a server, ``Keys`` that it knows, and the ``Gate`` that lets requests in."""

from __future__ import annotations

import hmac
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import anyio
from pydantic import Field

from w2s_chains.core.configs import Checked
from w2s_chains.errors import ConfigError
from w2s_chains.serving.refusals import SERVER_IS_BUSY, RefusedError
from w2s_chains.user_files import read_text

Count = Annotated[int, Field(ge=0, le=2**31)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]


class Limits(Checked):
    """What a server takes on.

    Attributes:
        parallel: Requests that are answered at once.
        queue: Further requests that wait; those beyond are refused (429).
        seconds: Time for one request, waiting included (504).
        body_bytes: Size of a request's body (413).
        candidates: Partial answers that one request may grow at once: its answers times the
            width and successors of its search (400).
        keep_alive: Seconds between the comments that keep a stream's connection open.
        drain: Seconds that running requests have to end after SIGTERM.
    """

    parallel: Annotated[int, Field(ge=1, le=2**31)] = 64
    queue: Count = 256
    seconds: Seconds = 600.0
    body_bytes: Annotated[int, Field(ge=1, le=2**31)] = 4 * 2**20
    candidates: Annotated[int, Field(ge=1, le=2**31)] = 256
    keep_alive: Seconds = 15.0
    drain: Annotated[float, Field(ge=0, le=1e9)] = 30.0


class Keys:
    """The keys of clients. None at all means that everybody may ask."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = [key.encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __repr__(self) -> str:
        return f"Keys({len(self._keys)})"

    def knows(self, authorization: bytes) -> bool:
        """Return whether a header holds one of the keys; in a time that tells nothing of them."""
        scheme, _, given = authorization.partition(b" ")
        same = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(same)

    @classmethod
    def read(cls, variables: Iterable[str] = (), files: Iterable[Path] = ()) -> Keys:
        """Read keys from environment variables, one in each, and from files, one in a line.

        Raises:
            ConfigError: There is none, or one has characters that no header has.
        """
        found: list[str] = []
        for variable in variables:
            if not os.environ.get(variable, "").strip():
                raise ConfigError(f"the environment variable {variable!r} holds no key; set it")
            found.append(os.environ[variable].strip())
        for file in files:
            lines = [line.strip() for line in read_text(file, "file of keys").splitlines()]
            own = [line for line in lines if line and not line.startswith("#")]
            if not own:
                raise ConfigError(f"there is no key in {str(file)!r}; write one in a line")
            found += own
        if any(not key.isascii() or not key.isprintable() or " " in key for key in found):
            raise ConfigError("a key has a space, or a character that is not ASCII; make another")
        return cls(found)


class Gate:
    """Lets a number of requests in at once, and has some of the others wait.

    Attributes:
        draining: Whether the server is about to stop, and takes no new request.
        stopped: Whether the time of those that ran is over, too.
        inside: Requests that are let in, or wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._room = anyio.CapacityLimiter(limits.parallel)
        self._scopes: set[anyio.CancelScope] = set()
        self.draining = False
        self.stopped = False
        self.inside = 0

    @property
    def running(self) -> int:
        """Requests that are answered now."""
        return self._room.borrowed_tokens

    @property
    def queued(self) -> int:
        """Requests that wait."""
        return self.inside - self.running

    def check(self) -> None:
        """Refuse a request that there is no place for.

        Raises:
            RefusedError: The server is about to stop, or its queue is full.
        """
        if self.draining:
            message = "the server is about to stop; ask another one, or try again later"
            raise RefusedError(503, message, "stopping", headers=SERVER_IS_BUSY)
        if self.inside >= self._limits.parallel + self._limits.queue:
            message = (
                f"the server answers {self.running} requests, and {self.queued} wait, which is "
                "the most; try again later"
            )
            raise RefusedError(429, message, "queue_full", headers=SERVER_IS_BUSY)

    @contextmanager
    def place(self) -> Generator[anyio.CapacityLimiter]:
        """Take a place in the queue; yields the room to enter, ``async with``.

        The time limit of the request begins here. Whoever has no place must not be let in: call
        ``check`` right before.

        Raises:
            RefusedError: The time is over, or the server stops.
        """
        self.inside += 1
        scope = anyio.move_on_after(self._limits.seconds)
        self._scopes.add(scope)
        try:
            with scope:
                yield self._room
        finally:
            self._scopes.remove(scope)
            self.inside -= 1
        if scope.cancelled_caught:
            raise self._late()

    def _late(self) -> RefusedError:
        if self.stopped:
            return RefusedError(503, "the server stops", "stopping", headers=SERVER_IS_BUSY)
        message = f"the answer took more than {self._limits.seconds:g} seconds, the most; ask for "
        return RefusedError(
            504, message + "less, or use a cheaper search", "timeout",
            headers={"x-should-retry": "false"},
        )  # fmt: skip

    def stop(self) -> None:
        """End all requests."""
        self.draining = self.stopped = True
        for scope in self._scopes:
            scope.cancel()
