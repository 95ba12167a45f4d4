"""Forked children: gunicorn with preload, multiprocessing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.helpers.polling import until
from w2s_chains import Engine, Hypothesis, Job, Sampling
from w2s_chains.backend.remote.threads import Threads
from w2s_chains.core.events import Committed
from w2s_chains.engine.visits import Turns
from w2s_chains.engine.waiting import EventStream
from w2s_chains.forks import ForkSafeLock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.parametrize("how", ["idle", "busy"])
def test_a_child_answers_like_its_parent(how: str) -> None:
    """With two threads for torch, as OpenMP's threads are missing in a child."""
    command = [sys.executable, "-m", "tests.helpers.forking", how, "20"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"same": 20}, done.stderr


def in_child(call) -> str:
    """What ``call`` returns or raises in a forked child."""
    read, write = os.pipe()
    if not os.fork():
        try:
            told = str(call())
        except BaseException as error:
            told = repr(error)
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.wait()
    return told


class Slow:
    """A proposer that takes its time over every token."""

    slice_tokens = 1

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked = threading.Event()

    def propose(self, requests):
        self.asked.set()
        time.sleep(self.seconds)
        return [
            [h.extend("a", n_tokens=1, finish_reason="length" if h.n_tokens > 2 else None)]
            for request in requests
            for h in request.hypotheses
        ]


def job(proposer: object) -> Job:
    return Job(root=Hypothesis.root("x"), strategy=Sampling(), proposer=proposer)  # pyright: ignore[reportArgumentType]


def answer(engine: Engine) -> str:
    [search] = engine.submit([job(Slow(0.0))])
    return search.future.result(timeout=20).text


def test_a_fork_waits_for_the_tick_and_the_parent_goes_on() -> None:
    engine, slow = Engine(), Slow(0.2)
    [search] = engine.submit([job(slow)])
    slow.asked.wait()
    before = time.monotonic()
    assert in_child(lambda: answer(engine)) == "aaaa"
    assert time.monotonic() - before > 0.1
    assert search.future.result(timeout=20).text == "aaaa"


def test_a_fork_in_the_middle_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_chains.forks.PATIENCE", 0.05)
    engine, slow = Engine(), Slow(0.5)
    [search] = engine.submit([job(slow)])
    slow.asked.wait()
    told = in_child(lambda: answer(engine))
    assert told.startswith("W2SError")
    assert "fork earlier, or start processes with multiprocessing" in told
    again = in_child(lambda: in_child(lambda: answer(engine)))
    assert again.startswith("W2SError"), "and in a child of that child"
    assert in_child(lambda: answer(Engine())) == "aaaa", "control"
    assert search.future.result(timeout=20).text == "aaaa"
    assert answer(engine) == "aaaa", "control: the parent's engine is whole"


def test_a_stream_is_not_read_in_a_child() -> None:
    with EventStream(Engine(), [job(Slow(0.0))], (Committed,)) as events:
        assert "only the parent goes on with it" in in_child(lambda: next(events))
        assert [type(event).__name__ for _, event in events][-1] == "Finished", "control"


def test_locks_are_free_in_a_child() -> None:
    lock, plain = ForkSafeLock(), threading.Lock()
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock, plain:
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()

    def take() -> str:
        with lock:
            return f"free, {plain.acquire(timeout=0.1)}"

    assert in_child(take) == "free, False", "a plain lock is the control"
    done.set()
    holder.join()


def test_threads_for_calls_have_all_their_places_in_a_child() -> None:
    threads, begun, done = Threads(1, 60.0), threading.Event(), threading.Event()

    def wait() -> bool:
        begun.set()
        return done.wait()

    waiting = threads.start(wait)
    begun.wait()
    assert in_child(lambda: threads.start(lambda: "ran").future.result(timeout=10)) == "ran"
    late = threads.start(lambda: "ran")
    with pytest.raises(TimeoutError):
        late.future.result(timeout=0.2)  # control: in the parent the place is taken
    done.set()
    assert waiting.future.result(timeout=10)
    assert late.future.result(timeout=10) == "ran"


def test_turns_come_in_the_order_of_asking() -> None:
    """Control: with one lock, a thread that takes it again and again starves all others."""
    turns, ended = Turns(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            turns.acquire()
            assert turns.acquire(), "who has the turn may take it again"
            time.sleep(0.01)
            turns.release()
            turns.release()

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(10):
        assert turns.acquire(timeout=1.0)
        turns.release()
    ended.set()
    worker.join()


def test_a_turn_that_does_not_come_leaves_no_trace() -> None:
    turns, held, done = Turns(), threading.Event(), threading.Event()

    def hold() -> None:
        turns.acquire()
        held.set()
        done.wait()
        turns.release()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    assert not turns.acquire(timeout=0.05)
    done.set()
    holder.join()
    assert turns.acquire(timeout=1.0)


def test_a_turn_that_comes_at_the_last_moment_is_not_lost() -> None:
    turns, got = Turns(), []
    turns.acquire()
    late = threading.Thread(target=lambda: got.append(turns.acquire(timeout=0.05)))
    late.start()
    until(lambda: len(turns._queue) == 2)
    with turns._lock:
        time.sleep(0.2)  # its time is over, and now its turn comes, as in release()
        turns._queue.popleft()
    late.join(timeout=20)
    assert got == [True]
