"""What a server can do is found out again: after a busy moment, and if another replaces it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.helpers import faulty, served
from tests.helpers.likeliest import TellingWords
from tests.helpers.openai_proposer import GREEDY, ask, connect, distinct
from tests.helpers.served import Server, Words, serve
from w2s_chains import Hypothesis, RemoteGuide, SamplingParams
from w2s_chains.errors import ConfigError, ServerError

TOP = SamplingParams(max_tokens=4, top_k=5)


class Busy(Server):
    """A server that is busy at chosen requests."""

    def busy(self, body: Any) -> bool:
        return False

    def answer(self, body: dict[str, Any], chat: bool) -> tuple[int, dict[str, Any]]:
        if self.busy(body):
            return 429, {"error": {"message": "too many requests"}}
        return super().answer(body, chat)


@contextmanager
def busy_server(monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    monkeypatch.setattr(served, "Server", Busy)
    with serve(Words()) as server:
        yield server


@pytest.mark.parametrize("field", ["top_k", "n", "seed"])
def test_a_busy_moment_switches_nothing_off(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with busy_server(monkeypatch) as server:
        # Only the requests that find out about this field fail, until the moment has passed.
        looks_for = {"top_k": (1,), "n": (2,), "seed": (2,)}[field]
        server.busy = lambda body: body.get(field) in looks_for
        proposer = connect(server, max_retries=0)
        can = proposer.capabilities
        assert not getattr(can, field), "control: it was not found out"
        assert "429" in can.unknown[field]
        if field == "top_k":
            with pytest.raises(ServerError, match="top_k could not be found out") as caught:
                ask(proposer, "x", sampling=TOP)
            assert caught.value.passing
        server.busy = lambda body: False
        assert ask(proposer, "x", sampling=TOP)
        can = proposer.capabilities
        assert getattr(can, field)
        assert not can.unknown
        before = len(server.bodies)
        assert proposer.capabilities is can
        assert len(server.bodies) == before, "it is known now"


def test_a_busy_moment_hides_no_likeliest_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with busy_server(monkeypatch) as server:
        server.model = TellingWords()
        for most in (1, 64):
            server.busy = lambda body, own=most: body.get("logprobs") == own
            proposer = connect(server, max_retries=0)
            with pytest.raises(
                ServerError, match=r"top_logprobs could not be found.*429"
            ) as caught:
                distinct(proposer, "x")
            assert caught.value.passing
            server.busy = lambda body: False
            assert len({child.text for child in distinct(proposer, "x")}) == 6
            assert not proposer.capabilities.unknown


def test_a_server_that_tells_them_takes_the_place_of_one_that_does_not() -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        with pytest.raises(ConfigError, match="tells no top_logprobs"):
            distinct(proposer, "x")
        server.model = TellingWords()
        assert distinct(proposer, "x")


def test_what_a_server_refuses_is_not_asked_again() -> None:
    """Control: a refusal tells what it cannot do."""
    with serve(Words(), strict=True) as server:
        proposer = connect(server)
        assert not proposer.capabilities.unknown
        before = len(server.bodies)
        for i in range(5):
            ask(proposer, f"x{i}", chunk_tokens=2)
        assert len(server.bodies) == before + 5


def test_a_busy_moment_during_the_first_request() -> None:
    with serve(Words(), refused={"Once": 429}) as server:
        proposer = connect(server, max_retries=0)
        for _ in range(2):
            with pytest.raises(ServerError, match="429"):
                ask(proposer, "x")
        server.refused = {}
        assert ask(proposer, "x")


def test_another_server_at_the_same_address() -> None:
    with serve(Words(), strict=True) as server:
        proposer = connect(server, max_retries=0)
        with pytest.raises(ConfigError, match="top_k"):
            ask(proposer, "x", sampling=TOP)
        server.strict = False  # an update
        assert ask(proposer, "x", sampling=TOP)
        assert proposer.capabilities.top_k
        server.completions = False  # and a chat server after it
        with pytest.raises(ServerError):
            ask(proposer, "x")
        [whole] = ask(proposer, "x", sampling=GREEDY)
        assert whole.finished
        assert not proposer.capabilities.completions


def test_a_failure_alone_is_checked_by_one_call() -> None:
    with serve(Words(), refused={"bad": 400}) as server:
        proposer = connect(server)
        ask(proposer, "x", chunk_tokens=2)
        for _ in range(2):
            with pytest.raises(ServerError):
                ask(proposer, "bad", chunk_tokens=2)
            before = len(server.bodies)
            ask(proposer, "x", chunk_tokens=2)
            assert len(server.bodies) == before + 2


def test_after_a_minute_it_is_checked_by_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        can = proposer.capabilities
        before = len(server.bodies)
        proposer._found._at -= 61
        assert proposer.capabilities is can
        assert len(server.bodies) == before + 1
        proposer._found._at -= 61
        server.model = type("Other", (Words,), {"vocabulary": (" neuf",) * 8})()
        assert proposer.capabilities is not can


def scored(guide: RemoteGuide) -> float:
    return guide.loglikelihood([Hypothesis.root("A").extend(" b c", None)])[0]


def test_another_guide_at_the_same_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty.serving("positive logprobs") as server:
        guide = RemoteGuide("m", base_url=server.url, max_retries=0, timeout=5.0)
        first = scored(guide)
        requests = server.requests
        assert scored(guide) == first
        assert server.requests == requests + 2
        # Another model, which is sound: it is tested anew.
        real = faulty.logprob
        monkeypatch.setattr(faulty, "logprob", lambda before, token: real(token, before))
        guide._found._at -= 61
        assert scored(guide) != first
        assert server.requests > requests + 6
        # One that only differs in what it cannot do.
        server.on = True
        guide._found._at -= 61
        with pytest.raises((ConfigError, ServerError)):
            scored(guide)
        server.on = False
        assert scored(guide)


def test_a_guide_that_is_busy_at_first() -> None:
    with faulty.serving("down") as server:
        server.on = True
        guide = RemoteGuide("m", base_url=server.url, max_retries=0, timeout=5.0)
        with pytest.raises(ServerError, match="503"):
            scored(guide)
        server.on = False
        assert scored(guide) < 0
