"""``DrainingServer``, which runs an app until it is told to stop, and the port it listens on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from ipaddress import ip_address
from types import FrameType

import uvicorn
from fastapi import FastAPI

from w2s_chains.errors import ConfigError
from w2s_chains.serving.limits import Gate


def listen(host: str, port: int) -> socket.socket:
    """Open the port, before any model is loaded.

    Args:
        host: The address: "127.0.0.1" for this machine alone, "0.0.0.0" or "::" for all.
        port: The port; 0 for any that is free.

    Raises:
        ConfigError: The port is in use, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, or asyncio leaves TCP_NODELAY off, and each reply waits for 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
        return listener
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}; give another --port or --host"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class DrainingServer(uvicorn.Server):
    """Drains before it ends: health and new requests turn to 503, running ones may end.

    ``run`` ends after SIGTERM or SIGINT, or ``drain``; a second one ends requests at once.
    """

    def __init__(self, app: FastAPI, on_start: Callable[[], None] = lambda: None) -> None:
        """Prepare the server.

        Args:
            app: From ``create_app``.
            on_start: Called once requests are answered.
        """
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=75,  # longer than clients keep an idle connection
                timeout_graceful_shutdown=5,
            )
        )
        self._gate: Gate = app.state.gate
        self._seconds: float = app.state.limits.drain
        self._on_start = on_start
        self._until = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    def drain(self) -> None:
        """Take no new requests, and end once those that run have ended."""
        self._until = 0.0 if self._gate.draining else time.monotonic() + self._seconds
        self._gate.draining = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        gate = self._gate
        if gate.draining and (not gate.inside or time.monotonic() >= self._until):
            gate.stop()
            self.should_exit = True
        return await super().on_tick(counter)
