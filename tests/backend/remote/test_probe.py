"""What a server cannot do is found out once, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.likeliest import TellingTiny, TellingWords
from tests.helpers.openai_proposer import Longest, ask, connect
from tests.helpers.served import Words, serve
from w2s_chains import W2SLLM, BestOfN, ChunkBeamSearch, Sampling, SamplingParams
from w2s_chains.errors import ConfigError


def test_what_a_server_can_do_is_found_out_once() -> None:
    with serve(Words(), n=False, strict=True) as server:
        proposer = connect(server)
        can = proposer.capabilities
        assert (can.completions, can.n, can.seed, can.token_ids) == (True, False, True, False)
        assert (can.top_k, can.min_p, can.echo, can.logprobs) == (False, False, False, False)
        assert len(server.bodies) < 15
        probed = len(server.bodies)
        ask(proposer, "x", chunk_tokens=2)
        ask(proposer, "y", chunk_tokens=2)
        assert len(server.bodies) == probed + 2
        assert "top_k" not in server.bodies[-1]
        for wrong in ({"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}):
            with pytest.raises(ConfigError, match="leave"):
                ask(proposer, "x", sampling=SamplingParams.model_validate(wrong))


def test_a_server_without_seeds_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with serve(Words(), seeds=False) as server:
        assert not connect(server).capabilities.seed
    assert "does not keep to seeds" in caplog.text


def test_a_chat_only_server_gives_whole_answers() -> None:
    with serve(Words(), completions=False) as server:
        proposer = connect(server, template="<{prompt}>")
        parts = {"proposer": proposer, "scorer": Longest(), "max_tokens": 6, "seed": 0}
        llm = W2SLLM(strategy=BestOfN(n=4), **parts)
        assert len(llm.invoke("x").split()) == 6
        assert server.bodies[-1]["messages"] == [{"role": "user", "content": "<x>"}]
        calls = len(server.bodies)
        assert len(W2SLLM(strategy=Sampling(), **parts).invoke("x").split()) == 6
        assert len(server.bodies) == calls + 1
        with pytest.raises(ConfigError, match=r"chat-only.*best_of_n"):
            W2SLLM(strategy=ChunkBeamSearch(), **parts).invoke("x")


def test_a_server_that_renders_the_template_gives_whole_answers() -> None:
    with serve(Words()) as server:
        proposer = connect(server, chat=True)
        with pytest.raises(ConfigError, match="give tokenizer"):
            ask(proposer, "x", chunk_tokens=3)


# The likeliest tokens.


@pytest.mark.parametrize(("most", "found"), [(1000, 12), (20, 12), (5, 5), (4, 0)])
def test_as_many_as_the_server_tells(most: int, found: int) -> None:
    """vLLM refuses more than 20 by default, OpenAI more than 5."""
    with serve(TellingWords(), most=most) as server:
        can = connect(server).capabilities
        assert (can.top_logprobs, can.top_texts, can.top_ids) == (found, bool(found), False)
        assert can.logprobs, "control"
        assert not can.unknown
        assert len(server.bodies) < 20


@pytest.mark.parametrize("names", ["texts", "pieces", "content"])
@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_how_they_are_named(names: Any, ids: bool) -> None:
    model = TellingTiny(tiny.llama(320), tiny.byte_tokenizer(), names)
    with serve(model, ids=ids) as server:
        can = connect(server).capabilities
        assert can.top_logprobs > 20
        assert can.top_texts == (names != "pieces")
        assert can.top_ids == (ids and names != "content")


class Liar(TellingWords):
    """Its likeliest tokens are those of another text."""

    def chances(self, text: str) -> dict[str, float]:
        found = super().chances(text)
        ranked = sorted(found, key=lambda name: found[name])
        return dict(zip(ranked, sorted(found.values(), reverse=True), strict=True))

    def go_on(self, ids: Any, body: Any, index: int) -> Any:
        one = super().go_on(ids, {**body, "logprobs": body.get("logprobs", 0)}, index)
        return one if body.get("logprobs") else TellingWords().go_on(ids, body, index)


@pytest.mark.parametrize("change", ["another text", "one only", "no list"])
def test_what_is_no_list_of_the_likeliest_is_none(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Liar() if change == "another text" else TellingWords()
    if change == "one only":
        monkeypatch.setattr(model, "told", lambda top: dict([*top.items()][-1:]))
    if change == "no list":
        monkeypatch.setattr(model, "told", lambda top: 7)
    with serve(model) as server:
        can = connect(server).capabilities
        assert (can.top_logprobs, can.top_texts) == (0, False)
        assert can.logprobs
