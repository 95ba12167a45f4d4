"""A real server on loopback, and its clients."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from tests.helpers.polling import until
from w2s_chains.serving.app import create_app
from w2s_chains.serving.catalog import Served
from w2s_chains.serving.limits import Keys, Limits
from w2s_chains.serving.server import DrainingServer, listen


@contextmanager
def serving(
    *models: Served, keys: Sequence[str] = (), origins: Sequence[str] = (), **limits: Any
) -> Generator[httpx.Client]:
    """Serve models in a thread; yields a client whose paths begin at the server's root."""
    app = create_app(models, Limits(**limits), Keys(keys), origins)
    with listen("127.0.0.1", 0) as listener:
        server = DrainingServer(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield client
        finally:
            server.drain()
            server.drain()
            thread.join()


def chunks(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events of a stream, which must end as OpenAI's do."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(one) for one in data]


def gate_of(client: httpx.Client) -> dict[str, Any]:
    """What ``/health`` says."""
    return client.get("/health").json()
