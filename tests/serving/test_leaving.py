"""Clients that leave, wait, come too late or in too great numbers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.helpers.llms import forwards, wait_for_engine
from tests.helpers.polling import until
from tests.helpers.serving import chunks, long_body, serving, serving_with
from w2s_chains import W2SLLM, BestOfN, Sampling
from w2s_chains.serving.catalog import Served

TOKENS = 200


@pytest.fixture(scope="module")
def body(llm: W2SLLM) -> dict[str, Any]:
    """A request that streams as it goes, and takes so many passes."""
    return long_body(llm, Sampling(), TOKENS)


@pytest.fixture(scope="module")
def silent(llm: W2SLLM) -> dict[str, Any]:
    """A request whose first text is its last."""
    return long_body(llm, BestOfN(n=2), TOKENS)


@pytest.fixture
def client(llm: W2SLLM) -> Iterator[httpx.Client]:
    """A client of a server that answers one request at a time, and has one other wait."""
    with serving(Served(name="raw", model=llm), parallel=1, queue=1, keep_alive=0.02) as client:
        yield client


def post(client: httpx.Client, body: dict[str, Any]) -> socket.socket:
    """Send a request, and read nothing yet."""
    address = client.base_url
    link = socket.create_connection((address.host, address.port or 80))
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    link.sendall(head.encode() + content)
    return link


def health(client: httpx.Client) -> tuple[int, int]:
    """Requests that run, and that wait."""
    told = client.get("/health").json()
    return told["running"], told["queued"]


def running(client: httpx.Client, count: tuple[int, int]) -> Callable[[], bool]:
    """Whether so many run and wait; asked now and then, since whoever asks costs time, too."""

    def is_so() -> bool:
        time.sleep(0.02)
        return health(client) == count

    return is_so


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stays", [False, True])
def test_a_client_that_leaves_ends_its_search(
    client: httpx.Client, llm: W2SLLM, body: dict[str, Any], stream: bool, stays: bool
) -> None:
    before = forwards(llm)
    link = post(client, {**body, "stream": stream})
    until(lambda: forwards(llm) > before + 5)
    if stays:  # control
        with link:
            until(running(client, (0, 0)))
    else:
        link.close()
        until(running(client, (0, 0)))
    wait_for_engine()
    assert (forwards(llm) - before >= TOKENS) == stays
    told = client.get("/metrics").text
    assert ("w2s_clients_left_total 0.0" in told) == stays


def test_who_leaves_while_waiting_is_never_answered(
    client: httpx.Client, llm: W2SLLM, body: dict[str, Any]
) -> None:
    with post(client, body):
        until(running(client, (1, 0)))
        for stream in (True, False):
            second = post(client, {**body, "stream": stream})
            until(running(client, (1, 1)))
            second.close()
            until(running(client, (1, 0)))
    until(running(client, (0, 0)))


def test_a_full_queue_is_told_and_empties(client: httpx.Client, body: dict[str, Any]) -> None:
    with post(client, body), post(client, body):
        until(running(client, (1, 1)))
        refused = client.post("/v1/completions", json=body)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    until(running(client, (0, 0)))
    assert client.post("/v1/completions", json={**body, "max_tokens": 2}).status_code == 200


def test_a_silent_stream_is_kept_alive(
    client: httpx.Client, silent: dict[str, Any], body: dict[str, Any]
) -> None:
    """While it waits for others, and while it searches."""
    link = post(client, body)
    until(running(client, (1, 0)))
    with client.stream("POST", "/v1/completions", json={**silent, "stream": True}) as reply:
        lines = reply.iter_lines()
        assert next(lines) == ": keep-alive", "nothing was said before"
        assert health_now(client) == (1, 1)
        link.close()
        rest = list(lines)
    first = next(i for i, line in enumerate(rest) if line.startswith("data"))
    assert rest[:first].count(": keep-alive") > 3
    assert chunks(rest)[-1]["choices"][0]["finish_reason"] == "length"


def health_now(client: httpx.Client) -> tuple[int, int]:
    """As ``health``, over a connection of its own, since a stream holds the other one."""
    told = httpx.get(client.base_url.join("/health")).json()
    return told["running"], told["queued"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_has_its_time(llm: W2SLLM, silent: dict[str, Any], stream: bool) -> None:
    before = forwards(llm)
    with serving(Served(name="raw", model=llm), seconds=0.1) as client:
        reply = client.post("/v1/completions", json={**silent, "stream": stream})
        error = {"type": "server_error", "code": "timeout", "param": None}
        if stream:
            last = [line for line in reply.text.splitlines() if line][-1]
            found = json.loads(last.removeprefix("data: "))["error"]
        else:
            assert reply.status_code == 504
            assert reply.headers["x-should-retry"] == "false"
            found = reply.json()["error"]
        assert "0.1 seconds" in found.pop("message")
        assert found == error
        until(running(client, (0, 0)))
    wait_for_engine()
    assert forwards(llm) - before < TOKENS


# The end of a server.


def drained(
    llm: W2SLLM, body: dict[str, Any], seconds: float
) -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
    """What a running request gets, and others, when the server is told to stop."""
    found: list[httpx.Response] = []
    with serving_with(Served(name="raw", model=llm), drain=seconds) as (client, server):
        url = client.base_url
        thread = threading.Thread(
            target=lambda: found.append(
                httpx.post(url.join("/v1/completions"), json=body, timeout=60)
            )
        )
        thread.start()
        until(running(client, (1, 0)))
        server.drain()
        late = client.post("/v1/completions", json=body)
        told = client.get("/health")
        thread.join()
    return found, late, told


@pytest.mark.parametrize("seconds", [60.0, 0.3])
def test_a_server_that_stops_lets_requests_end(
    llm: W2SLLM, body: dict[str, Any], seconds: float
) -> None:
    if seconds < 1:
        body = {**body, "max_tokens": 1500, "seed": 0}
    [running], late, told = drained(llm, body, seconds)
    assert (running.status_code == 200) == (seconds > 1), "control: its time is over"
    if seconds < 1:
        assert running.json()["error"]["code"] == "stopping"
    assert late.status_code == 503
    assert late.json()["error"]["code"] == "stopping"
    assert told.status_code == 503


def test_many_streams_end_where_their_clients_leave(llm: W2SLLM, body: dict[str, Any]) -> None:
    """All at once, after some text each."""

    async def run(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:

            async def leave() -> None:
                call = {**body, "stream": True}
                async with client.stream("POST", "/v1/completions", json=call) as reply:
                    async for line in reply.aiter_lines():
                        if line.startswith("data"):
                            break

            await asyncio.gather(*(leave() for _ in range(12)))

    before = forwards(llm)
    with serving(Served(name="raw", model=llm)) as client:
        asyncio.run(run(str(client.base_url)))
        until(running(client, (0, 0)))
    wait_for_engine()
    assert forwards(llm) - before < TOKENS
