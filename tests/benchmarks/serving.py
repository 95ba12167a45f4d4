"""Many clients of a real server, against the same searches as one batch in this process.

    python -m tests.benchmarks.serving --out serving.json

The server is a process of its own, ``w2s serve`` on small random models. The smaller they are
(``--hidden 32``), the more counts what a request costs beside its search; ``--embedded`` takes the
models of the examples instead. Three times in turn, the
searches run as one batch here, and then as requests of clients that each wait for one answer before
they ask again. Then a third of the clients leaves in the middle of every answer. Every answer that
ends is compared with the one of the same seed here. On a machine that does other work, too, CPU
seconds tell more than the throughput, since clients and server wait for processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.helpers import tiny
from w2s_chains import W2SLLM, Engine, Job
from w2s_chains.core.events import Finished
from w2s_chains.engine.waiting import EventStream

WORDS = ["film", "plot", "music", "camera", "actor", "scene", "ending", "story", "light"]


def write_config(folder: Path, tokens: int, hidden: int | None) -> Path:
    """Save small models and their config; without a width, a config of the embedded models."""
    path = folder / "tiny.yaml"
    if hidden is None:
        parts: dict[str, Any] = {
            "proposer": "embedded:smollm2-135m-instruct",
            "guides": {"tuned": "embedded:reviews-tuned", "untuned": "embedded:reviews-untuned"},
        }
    else:
        parts = {
            "proposer": {"model": str(folder / "proposer")},
            "guides": {name: str(folder / name) for name in ("tuned", "untuned")},
        }
        _save_models(folder, hidden)
    values = {
        **parts,
        "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 4},
        "generation": {"max_tokens": tokens},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def _save_models(folder: Path, hidden: int) -> None:
    size: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": 2 if hidden < 100 else 6,
        "initializer_range": 0.3 * (32 / hidden) ** 0.5,
    }
    base = tiny.llama(320, seed=1)
    for name, model in (
        ("proposer", tiny.llama(320, **size)), ("tuned", tiny.noisy(base)), ("untuned", base),
    ):  # fmt: skip
        model.save_pretrained(folder / name)
        tiny.byte_tokenizer().save_pretrained(folder / name)


@contextmanager
def server(config: Path, parallel: int) -> Generator[str]:
    """Run ``w2s serve``; yields its URL."""
    command = [sys.executable, "-m", "w2s_chains", "serve", str(config), "--port", "0"]
    with subprocess.Popen(
        [*command, "--parallel", str(parallel)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield next(word for word in line.split() if word.startswith("http")).rstrip(";")
        finally:
            process.terminate()
            assert process.wait(60) == 0, "it drains"


def in_process(llm: W2SLLM, bodies: Sequence[dict[str, Any]]) -> tuple[list[str], float]:
    """Answer all at once; return texts, and seconds."""
    begun = time.perf_counter()
    jobs: list[Job] = []
    for body in bodies:
        jobs += llm.model_copy(update={"seed": body["seed"]}).jobs([body["prompt"]])
    with EventStream(llm.engine, jobs) as events:
        found = dict(events)
    texts = [event.text for _, event in sorted(found.items()) if isinstance(event, Finished)]
    return texts, time.perf_counter() - begun


async def ask(
    client: httpx.AsyncClient, body: dict[str, Any], leaves: bool
) -> tuple[str | None, float, float]:
    """Stream an answer; return text, or None if the client left; seconds to first text and end."""
    begun = time.perf_counter()
    first, text = 0.0, ""
    async with client.stream("POST", "/completions", json={**body, "stream": True}) as reply:
        assert reply.status_code == 200, await reply.aread()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
                first = first or time.perf_counter() - begun
                if leaves:
                    return None, first, 0.0
    return text, first, time.perf_counter() - begun


async def over_http(
    url: str, bodies: Sequence[dict[str, Any]], clients: int, leaving: float = 0.0
) -> tuple[list[str | None], float, list[float], list[float]]:
    """Ask as so many clients; return texts, seconds, and each one's seconds."""
    waiting = list(enumerate(bodies))[::-1]
    found: list[Any] = [None] * len(bodies)
    numbers = random.Random(0)

    async def run(client: httpx.AsyncClient) -> None:
        while waiting:
            index, body = waiting.pop()
            found[index] = await ask(client, body, numbers.random() < leaving)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(run(client) for _ in range(clients)))
        seconds = time.perf_counter() - begun
    ended = [one for one in found if one[0] is not None]
    return (
        [one[0] for one in found],
        seconds,
        sorted(one[1] for one in ended if one[1]),
        sorted(one[2] for one in ended),
    )


def metric(url: str, name: str) -> float:
    """A number that the server tells of itself."""
    text = httpx.get(url.replace("/v1", "/metrics")).text
    [line] = [one for one in text.splitlines() if one.startswith(f"{name} ")]
    return float(line.split()[1])


def cpu(url: str) -> float:
    """CPU seconds of the server so far."""
    return metric(url, "process_cpu_seconds_total")


def resident(url: str) -> float:
    """MB of the server's memory."""
    return metric(url, "process_resident_memory_bytes") / 2**20


def ratio(here: Sequence[float], there: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(here, there, strict=True)), 3)


def part(values: Sequence[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)]


def measure(
    clients: int, requests: int, tokens: int, hidden: int | None, repeats: int
) -> dict[str, Any]:
    """All numbers."""
    numbers = random.Random(1)
    bodies = [
        {"model": "tiny", "prompt": f"{i} " + " ".join(numbers.choices(WORDS, k=6)), "seed": i % 7}
        for i in range(requests)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(Path(folder), tokens, hidden)
        llm = W2SLLM.from_config(config, engine=Engine(max_live=clients))
        in_process(llm, bodies[:clients])
        with server(config, clients) as url:
            asyncio.run(over_http(url, bodies[:clients], clients))
            here, there = list[float](), list[float]()
            cpu_here, cpu_there = list[float](), list[float]()
            for _ in range(repeats):
                begun = time.process_time()
                texts, seconds = in_process(llm, bodies)
                cpu_here.append(time.process_time() - begun)
                here.append(seconds)
                begun = cpu(url)
                found, seconds, first, whole = asyncio.run(over_http(url, bodies, clients))
                cpu_there.append(cpu(url) - begun)
                there.append(seconds)
                wrong = sum(a != b for a, b in zip(texts, found, strict=True))
            before = resident(url)
            for _ in range(repeats):
                left, *_ = asyncio.run(over_http(url, bodies, clients, leaving=1 / 3))
                wrong += sum(b not in (None, a) for a, b in zip(texts, left, strict=True))
            time.sleep(0.5)
            health = httpx.get(url.replace("/v1", "/health")).json()
            return {
                "clients": clients,
                "requests": requests,
                "width of the large model": hidden or "SmolLM2",
                "processors": os.cpu_count(),
                "wrong answers": wrong,
                "left": sum(one is None for one in left),
                "searches still running": health["running"] + health["queued"],
                "MB more after clients left": round(resident(url) - before, 1),
                "seconds in process": [round(one, 2) for one in here],
                "seconds over HTTP": [round(one, 2) for one in there],
                "throughput ratio": ratio(here, there),
                "CPU seconds in process": [round(one, 2) for one in cpu_here],
                "CPU seconds of the server": [round(one, 2) for one in cpu_there],
                "ratio of CPU seconds": ratio(cpu_here, cpu_there),
                "first text p50": round(part(first, 0.5), 3),
                "first text p99": round(part(first, 0.99), 3),
                "answer p50": round(part(whole, 0.5), 3),
                "answer p99": round(part(whole, 0.99), 3),
            }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    hidden = None if given.embedded else given.hidden
    found = measure(given.clients, given.requests, given.tokens, hidden, given.repeats)
    for name, value in found.items():
        print(f"{name:<28}{value}")
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
