"""What a server can do, and what the strategy needs of it; keys are named and never shown."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doctor.conftest import Write
from tests.helpers import tiny
from tests.helpers.echo_server import serving
from tests.helpers.likeliest import TellingTiny
from tests.helpers.served import Server, Words, serve
from w2s_chains.doctor import Diagnosis, diagnose

SECRET = "sk-very-secret-1234"


def failures(found: Diagnosis) -> str:
    return " | ".join(f"{one.about}: {one.text}" for one in found.failures)


def told(found: Diagnosis, level: str) -> str:
    return " | ".join(one.text for one in found.findings if one.level == level)


@pytest.fixture
def tokens() -> Iterator[Server]:
    with serve(TellingTiny(tiny.llama(320), tiny.byte_tokenizer()), ids=True) as server:
        yield server


def proposer(server: Server | str, **fields: Any) -> dict[str, Any]:
    url = server if isinstance(server, str) else server.url
    return {"type": "openai", "base_url": url, "model": "tiny", **fields}


def test_a_server_is_asked_what_it_can_do(
    write: Write, tokens: Server, tiny_folders: dict[str, Path]
) -> None:
    known = proposer(tokens, tokenizer=str(tiny_folders["proposer"]), chat=False)
    found = diagnose(write(proposer=known), "Hello")
    assert found.exit_code == 0, found.findings
    [served] = found.served
    assert served.can is not None
    assert served.can["token_ids"] is served.can["n"] is served.can["seed"] is True
    assert "shared: guides" in found.vocabulary
    assert [one.role for one in found.local] == ["tuned guide", "untuned guide"]
    assert found.loaded is not None, "the guides"
    before = len(tokens.bodies)
    found = diagnose(write(proposer=known), timeout=None, load=False)
    assert len(tokens.bodies) == before, "control: it was not asked"
    assert found.served[0].can is None


def test_what_a_server_lacks_for_a_strategy(write: Write) -> None:
    with serve(Words(), n=False, strict=True) as server:
        found = diagnose(write(proposer=proposer(server)), load=False)
        assert found.exit_code == 0, found.findings
        assert "ignores n" in told(found, "note")
        assert "travel as text" in told(found, "note")
        distinct = {"type": "token_search", "candidates": 4, "distinct": True}
        assert "top_logprobs" in failures(
            diagnose(write(proposer=proposer(server), strategy=distinct))
        )
        sampled = {"max_tokens": 8, "top_k": 5}
        assert "does not keep to top_k=5" in failures(
            diagnose(write(proposer=proposer(server), generation=sampled))
        )
        eft = {"type": "emulated_fine_tuning"}
        assert "in this process" in failures(
            diagnose(write(proposer=proposer(server), strategy=eft))
        )


def test_a_server_that_only_chats(write: Write) -> None:
    with serve(Words(), completions=False) as server:
        found = diagnose(write(proposer=proposer(server)), load=False)
        assert "chat-only" in failures(found)
        assert found.served[0].rendered is not None
        assert found.served[0].rendered.how.startswith("messages")
        assert "best_of_n" in failures(found)
        for whole in ({"type": "best_of_n", "n": 2}, {"type": "sampling"}):
            found = diagnose(write(proposer=proposer(server), strategy=whole), load=False)
            assert found.exit_code == 0, "control"


def test_the_wrong_tokenizer(write: Write, tokens: Server, foreign_folder: Path) -> None:
    wrong = proposer(tokens, tokenizer=str(foreign_folder))
    assert "is not the one of" in failures(diagnose(write(proposer=wrong)))


def test_a_server_that_is_away(write: Write) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    began = time.monotonic()
    found = diagnose(write(proposer=proposer(url)))
    assert time.monotonic() - began < 10
    assert "check that the server runs" in failures(found)
    assert found.exit_code == 1
    assert found.loaded is None, "nothing is loaded for what fails anyway"


def test_a_server_that_hangs(write: Write) -> None:
    with serve(Words(), faults={"hang": 1.0}) as server:
        began = time.monotonic()
        found = diagnose(write(proposer=proposer(server)), timeout=0.5)
        assert time.monotonic() - began < 10
        assert "no answer within 0.5 seconds" in failures(found)


def test_a_key_that_is_missing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Words()) as server:
        known = proposer(server, api_key_env="W2S_TEST_KEY")
        found = diagnose(write(proposer=known), load=False)
        assert found.exit_code == 0
        assert "W2S_TEST_KEY" in told(found, "warning")
        assert "answers without it" in told(found, "warning")
        assert "export W2S_TEST_KEY" in failures(diagnose(write(proposer=known), timeout=None))
        monkeypatch.setenv("W2S_TEST_KEY", SECRET)
        found = diagnose(write(proposer=known), load=False)
        assert "W2S_TEST_KEY" not in told(found, "warning"), "control"
        assert found.served[0].key_is_set
        assert server.keys >= {SECRET}
        assert SECRET not in json.dumps(found.to_json())


def test_a_key_that_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Words(), refused={"": 401}) as server:
        known = proposer(server, api_key_env="W2S_TEST_KEY")
        assert "set the key in the environment variable W2S_TEST_KEY" in failures(
            diagnose(write(proposer=known))
        )
        monkeypatch.setenv("W2S_TEST_KEY", SECRET)
        found = diagnose(write(proposer=known), load=False)
        assert "replace the key in W2S_TEST_KEY" in failures(found)
        assert SECRET not in json.dumps(found.to_json())


def test_a_guide_behind_a_server(write: Write, tiny_folders: dict[str, Path]) -> None:
    with serving(tiny.llama(320, seed=1), tiny.byte_tokenizer()) as server:
        guides = {
            "tuned": str(tiny_folders["tuned"]),
            "untuned": {"base_url": server.url, "model": "tiny"},
        }
        found = diagnose(write(guides=guides), load=False)
        assert found.exit_code == 0, found.findings
        assert "anew for every chunk" in told(found, "note")
        server.fault = "shifted"
        assert "cannot be a guide" in failures(diagnose(write(guides=guides)))


def test_a_score_that_a_served_model_cannot_tell(write: Write) -> None:
    with serve(Words()) as server:
        own = {"proposer": proposer(server), "guides": None, "scorer": {"type": "loglikelihood"}}
        assert "loglikelihood" in failures(diagnose(write(**own)))
        sampling = {"proposer": proposer(server), "guides": None, "strategy": {"type": "sampling"}}
        assert diagnose(write(**sampling)).exit_code == 0, "control"


def test_a_langchain_model(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    model = {"type": "langchain", "model": "openai:gpt-4o-mini"}
    best = {"type": "best_of_n", "n": 2}
    found = diagnose(write(proposer=model, strategy=best), load=False)
    assert found.exit_code == 0, found.findings
    assert "was not called" in told(found, "note")
    assert SECRET not in json.dumps(found.to_json())
    assert "cannot continue a partial answer" in failures(diagnose(write(proposer=model)))
    monkeypatch.delenv("OPENAI_API_KEY")
    found = diagnose(write(proposer=model, strategy=best), load=False)
    assert "OPENAI_API_KEY" in failures(found)


def test_a_langchain_model_without_its_package(write: Write) -> None:
    model = {"type": "langchain", "model": "nothing:at-all"}
    found = diagnose(write(proposer=model, strategy={"type": "best_of_n", "n": 2}))
    assert "LangChain cannot make a chat model of 'nothing:at-all'" in failures(found)
