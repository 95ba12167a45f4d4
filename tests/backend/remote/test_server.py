"""What goes wrong with a server: errors with a remedy, time-outs, cancelling."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers.openai_proposer import Longest, ask, connect
from tests.helpers.served import Words, serve
from w2s_chains import W2SLLM, BestOfN, Engine, Hypothesis, Job, Sampling
from w2s_chains.errors import CancelledError, ServerError
from w2s_chains.proposers import OpenAIProposer


def test_one_failure_harms_no_other_search() -> None:
    with serve(Words(), refused={"bad": 400}) as server:
        proposer = connect(server)
        llm = W2SLLM(
            proposer=proposer, scorer=Longest(), strategy=BestOfN(n=2), max_tokens=4, seed=0
        )
        good, bad, fine = llm.batch(["good", "bad", "fine"], return_exceptions=True)
        assert isinstance(bad, ServerError)
        assert bad.status == 400
        assert "refused because of 'bad'" in str(bad)
        assert [good, fine] == llm.batch(["good", "fine"])
        assert sum("bad" in body["prompt"] for body in server.bodies) == 1, "400 is not retried"


@pytest.mark.parametrize(
    ("status", "tries", "remedy"),
    [(401, 1, "replace the key"), (404, 1, "check base_url"), (429, 3, "max_retries")],
)
def test_errors_name_the_remedy(status: int, tries: int, remedy: str) -> None:
    with serve(Words(), refused={"bad": status}) as server:
        proposer = connect(server, max_retries=2, api_key="a-key")
        with pytest.raises(ServerError, match=remedy) as caught:
            ask(proposer, "bad", chunk_tokens=2)
        assert server.url in str(caught.value)
        assert "'m'" in str(caught.value)
        assert sum("bad" in body["prompt"] for body in server.bodies) == tries


def test_a_server_that_is_not_there() -> None:
    with serve(Words()) as server:
        gone = connect(server, max_retries=1)
    started = time.monotonic()
    with pytest.raises(ServerError, match=r"after 2 attempts.*check that the server runs"):
        ask(gone, "x")
    assert time.monotonic() - started < 5


def submit(engine: Engine, proposer: OpenAIProposer, *prompts: str) -> list[Any]:
    return engine.submit(
        [
            Job(root=Hypothesis.root(prompt), strategy=Sampling(), proposer=proposer)
            for prompt in prompts
        ]
    )


def test_a_cancelled_search_does_not_wait_for_its_server() -> None:
    with serve(Words(), delay=0.0) as server:
        proposer = connect(server, timeout=60.0)
        assert proposer.capabilities.n
        server.delay = 30.0
        engine = Engine()
        [running] = submit(engine, proposer, "x")
        deadline = time.monotonic() + 10
        while "x" not in [body["prompt"] for body in server.bodies]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.cancel()
        with pytest.raises(CancelledError):
            running.future.result(timeout=5)
        [other] = submit(engine, proposer, "y")
        engine.close()
        with pytest.raises(CancelledError):
            other.future.result(timeout=5)


def test_a_hanging_server_times_out() -> None:
    with serve(Words(), patience=30) as server:
        proposer = connect(server, timeout=0.2, max_retries=1)
        assert proposer.capabilities.n
        server.faults = {"hang": 1.0}
        with pytest.raises(ServerError, match=r"after 2 attempts: no answer within 0.2 seconds"):
            ask(proposer, "x")


def test_a_server_that_drips_times_out_too() -> None:
    """Time-outs of sockets begin anew with every byte."""
    import socket
    import threading

    listening = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = listening.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        for _ in range(100):
            time.sleep(0.05)
            try:
                connection.sendall(b" ")
            except OSError:
                return

    threading.Thread(target=drip, daemon=True).start()
    proposer = OpenAIProposer(
        "m", base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3, max_retries=0
    )
    started = time.monotonic()
    with pytest.raises(ServerError, match="no answer within"):
        ask(proposer, "x")
    assert time.monotonic() - started < 3
    listening.close()
