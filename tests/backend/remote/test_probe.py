"""What a server cannot do is found out once, and refused."""

from __future__ import annotations

import pytest

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
