"""Many clients at once, of which a third leaves; ``tests/benchmarks/serving.py`` measures more."""

from __future__ import annotations

import asyncio
import json
import random
import re
from typing import Any

import httpx
import pytest

from tests.helpers.llms import PROMPTS, in_memory, wait_for_engine
from tests.helpers.polling import until
from tests.helpers.serving import serving
from w2s_chains import W2SLLM
from w2s_chains.serving.catalog import Served

CLIENTS, REQUESTS = 16, 60


async def ask(client: httpx.AsyncClient, body: dict[str, Any], leaves: bool) -> str | None:
    """Half of the answers are streamed; who leaves takes the first chunk, or nothing."""
    path = "/v1/completions"
    if not body["stream"]:
        waits = client.post(path, json=body)
        if leaves:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waits, 0.02)
            return None
        reply = await waits
        assert reply.status_code == 200
        return reply.json()["choices"][0]["text"]
    text = ""
    async with client.stream("POST", path, json=body) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                if leaves:
                    return None
                text += json.loads(line[6:])["choices"][0]["text"]
    return text


async def crowd(url: str, bodies: list[dict[str, Any]]) -> list[str | None]:
    found: list[str | None] = [None] * len(bodies)
    waiting = list(enumerate(bodies))
    numbers = random.Random(0)
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def run() -> None:
            while waiting:
                index, body = waiting.pop()
                found[index] = await ask(client, body, numbers.random() < 1 / 3)

        await asyncio.gather(*(run() for _ in range(CLIENTS)))
    return found


def test_no_answer_is_wrong_and_nothing_stays_behind(llm: W2SLLM) -> None:
    bodies = [
        {"model": "raw", "prompt": f"{PROMPTS[i % 16]} {i}", "seed": i % 5, "stream": bool(i % 2)}
        for i in range(REQUESTS)
    ]
    own = [""] * REQUESTS
    for seed in range(5):
        own[seed::5] = llm.batch([body["prompt"] for body in bodies[seed::5]], seed=seed)
    wait_for_engine()
    before = in_memory()
    with serving(Served(name="raw", model=llm), parallel=CLIENTS // 2) as client:
        found = asyncio.run(crowd(str(client.base_url), bodies))
        until(lambda: client.get("/health").json() == {"status": "ok", "running": 0, "queued": 0})
        left = found.count(None)
        [told] = re.findall(r"(?m)^w2s_clients_left_total (\S+)", client.get("/metrics").text)
        assert 0 < float(told) <= left, "some leave before the server hears of them"
    wait_for_engine()
    assert 5 < left < REQUESTS / 2
    for mine, theirs in zip(own, found, strict=True):
        assert theirs in (None, mine)
    assert len(set(own)) > REQUESTS / 2, "control: they differ"
    assert in_memory() == before
