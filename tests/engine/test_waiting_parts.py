"""While a part waits for a server, other searches, event loops and the exit go on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.faulty import FaultyServer, serving
from tests.helpers.llms import engine_threads, wait_for_engine
from tests.helpers.polling import until
from tests.helpers.remote_parts import OPTIONS, PARTS, Guided, Here
from w2s_chains import W2SLLM, BestOfN, Engine, Hypothesis, RemoteGuide, Sampling
from w2s_chains.backend.remote.event_loop import released, wait_for
from w2s_chains.core.asks import Expand
from w2s_chains.engine.visits import Turns
from w2s_chains.errors import CancelledError, W2SError


def patient(part: str, server: FaultyServer, engine: Engine, mp: pytest.MonkeyPatch) -> W2SLLM:
    """A model whose server hangs for longer than any of these tests."""
    mp.setitem(OPTIONS, "timeout", 50.0)
    mp.setenv("OPENAI_BASE_URL", server.url)
    mp.setenv("OPENAI_API_KEY", "x")
    return PARTS[part](server, engine)


@pytest.mark.parametrize("part", PARTS)
def test_a_silent_server_holds_nobody_else(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the very first call, at which a server is tested."""
    engine = Engine(max_live=4)
    with serving("hangs") as server:
        server.on = True
        llm = patient(part, server, engine, monkeypatch)
        calm = W2SLLM(proposer=Here(), strategy=Sampling(), max_tokens=8, engine=engine)

        async def both() -> float:
            silent = [asyncio.create_task(llm.ainvoke(f"a{i}")) for i in range(9)]
            longest = 0.0
            for _ in range(10):
                begun = time.monotonic()
                await asyncio.sleep(0.02)  # the event loop is free
                assert await calm.ainvoke("x") == " word" * 8
                longest = max(longest, time.monotonic() - begun)
            assert not any(task.done() for task in silent), "control"
            for task in silent:
                task.cancel()
            await asyncio.gather(*silent, return_exceptions=True)
            return longest

        assert asyncio.run(both()) < 2
        wait_for_engine(5)  # cancelling has reached all parts


def test_a_process_exits_while_its_servers_are_silent() -> None:
    script = """
        import os, threading, time
        from tests.helpers.remote_parts import OPTIONS, PARTS
        from tests.helpers.faulty import FaultyServer
        from w2s_chains import Engine
        OPTIONS["timeout"] = 50.0
        server = FaultyServer("hangs")
        server.on = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        engine = Engine()
        for make in PARTS.values():
            llm = make(server, engine)
            threading.Thread(target=llm.invoke, args=("x",), daemon=True).start()
        while server.requests < 3:
            time.sleep(0.05)
    """
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert time.monotonic() - begun < 45, done.stderr
    assert done.returncode == 0, done.stderr


def test_a_cancelled_guide_is_called_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("hangs") as server:
        guide = RemoteGuide("m", base_url=server.url, timeout=50.0)
        llm = W2SLLM(
            proposer=Here(), scorer=Guided(guide), strategy=BestOfN(n=2), max_tokens=2,
            engine=Engine(),
        )  # fmt: skip
        llm.invoke("x")
        server.on = True
        [search] = llm.engine.submit(llm.jobs(["y"]))
        while engine_threads() and server.requests < 5:
            time.sleep(0.01)
        search.cancel()
        with pytest.raises(CancelledError):
            search.future.result(timeout=5)
        server.on = False
        assert isinstance(llm.invoke("y"), str), "and goes on afterwards"


class Remote:
    """A proposer that waits, as those behind a server do."""

    slice_tokens = 1

    def __init__(self, release: bool = True) -> None:
        self.release = release
        self.running = self.most = 0

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        self.running += 1
        self.most = max(self.most, self.running)
        if self.release:
            with released():
                time.sleep(0.02)
        else:
            time.sleep(0.02)
        self.running -= 1
        return Here().propose(requests)


@pytest.mark.parametrize("release", [True, False])
def test_code_of_parts_runs_one_thread_at_a_time(release: bool) -> None:
    """Several models at once on one engine, all of whose parts wait now and then."""
    inside: set[int] = set()
    wrong: list[set[int]] = []

    class Strict(Here):
        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            inside.add(threading.get_ident())
            if len(inside) > 1:
                wrong.append(set(inside))
            time.sleep(0.001)
            inside.discard(threading.get_ident())
            return super().propose(requests)

    engine, remote = Engine(max_live=3), Remote(release)
    models = [
        W2SLLM(proposer=p, strategy=Sampling(), max_tokens=6, engine=engine)
        for p in (Strict(), remote, Strict(), Remote(release))
    ]
    handles = [
        handle
        for i in range(12)
        for model in models
        for handle in engine.submit(model.jobs([f"{i}"]))
    ]
    assert [h.future.result(timeout=60).text for h in handles] == [" word" * 6] * 48
    assert not wrong
    wait_for_engine()
    assert not engine._live
    assert not engine._threads
    assert not engine._waiting


def test_a_part_that_waits_fails_its_own_searches_only() -> None:
    class Fails(Remote):
        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            super().propose(requests)
            raise ZeroDivisionError

    engine = Engine()
    good, bad = (
        W2SLLM(proposer=p, strategy=Sampling(), max_tokens=6, engine=engine)
        for p in (Remote(), Fails())
    )
    handles = engine.submit([*good.jobs(["a", "b"]), *bad.jobs(["c", "d"])])
    found = [h.future.exception(timeout=20) for h in handles]
    assert found[:2] == [None, None]
    assert all(isinstance(error, ZeroDivisionError) for error in found[2:])


def test_a_part_that_waits_may_not_ask_its_engine() -> None:
    engine = Engine()
    inner = W2SLLM(proposer=Here(), strategy=Sampling(), max_tokens=2, engine=engine)

    class Asks(Here):
        def propose(self, requests: Sequence[Expand]) -> Any:
            with released():
                inner.invoke("x")
            return super().propose(requests)

    with pytest.raises(W2SError, match="engine of its own"):
        W2SLLM(proposer=Asks(), strategy=Sampling(), max_tokens=2, engine=engine).invoke("x")


def test_closing_ends_what_waits() -> None:
    class Sleeps(Here):
        def propose(self, requests: Sequence[Expand]) -> Any:
            import anyio

            wait_for(anyio.sleep, 100)

    engine = Engine()
    llm = W2SLLM(proposer=Sleeps(), strategy=Sampling(), max_tokens=2, engine=engine)
    handles = engine.submit(llm.jobs(["a", "b"]))
    begun = time.monotonic()
    engine.close()
    assert time.monotonic() - begun < 5
    for handle in handles:
        with pytest.raises(CancelledError):
            handle.future.result(timeout=1)


def test_turns_are_taken_in_order() -> None:
    turns, order = Turns(), []
    turns.acquire()

    def take(i: int) -> None:
        turns.acquire()
        order.append(i)
        turns.release()

    threads = [threading.Thread(target=take, args=(i,)) for i in range(5)]
    for i, thread in enumerate(threads):
        thread.start()
        until(lambda i=i: len(turns._queue) == i + 2)
    turns.release()
    for thread in threads:
        thread.join(timeout=20)
    assert order == [*range(5)]
