from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import Generation, LLMResult
from pydantic import Field, SecretStr

from tests.helpers.served import Server, Words, serve
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LangChainProposer,
    Sampling,
    SamplingParams,
    load,
)
from w2s_chains.errors import CancelledError, ConfigError, ProposerError


class Longest:
    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [float(len(h.response)) for h in hypotheses]


class Plain(BaseLLM):
    """An LLM that knows no arguments and tells nothing."""

    calls: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "plain"

    def _generate(self, prompts: list[str], stop: Any = None, run_manager: Any = None, **kw: Any):
        self.calls.append({"prompt": prompts[0], **kw})
        if "bad" in prompts[0]:
            raise ValueError("out of luck")
        body = {"max_tokens": 4, "temperature": 1.0, "seed": len(self.calls), **kw}
        one = Words().go_on(prompts[0], body, 0)
        return LLMResult(generations=[[Generation(text=one.text, generation_info=self.told(one))]])

    def told(self, one: Any) -> dict[str, Any] | None:
        return None


class Telling(Plain):
    """An LLM that takes max_tokens and seed, and tells how an answer ended."""

    max_tokens: int = 16
    seed: int | None = None

    def told(self, one: Any) -> dict[str, Any] | None:
        return {"finish_reason": one.finish_reason, "completion_tokens": one.count}


def llm(proposer: LangChainProposer, strategy: Any, **options: Any) -> W2SLLM:
    options = {"max_tokens": 12, "seed": 0, **options}
    return W2SLLM(proposer=proposer, scorer=Longest(), strategy=strategy, **options)


def ask(proposer: LangChainProposer, *prompts: str, **fields: Any) -> list[Any]:
    nodes = [Hypothesis.root(prompt) for prompt in prompts]
    return proposer.propose([Expand(hypotheses=(node,), **fields) for node in nodes])


def test_any_llm_gives_whole_answers() -> None:
    model = Plain()
    assert len(llm(LangChainProposer(model, template="<{prompt}>"), BestOfN(n=3)).invoke("x")) > 4
    assert [call["prompt"] for call in model.calls] == ["<x>"] * 3


def test_any_chat_model_gives_whole_answers() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("short"), AIMessage("much longer")]))
    proposer = LangChainProposer(model)
    chat = ChatW2S(proposer=proposer, scorer=Longest(), strategy=BestOfN(n=2))
    assert chat.invoke([("system", "be nice"), ("human", "hi")]).content == "much longer"


def test_sampling_needs_no_chunks() -> None:
    model = Plain()
    assert llm(LangChainProposer(model), Sampling()).invoke("x")
    assert len(model.calls) == 1


@pytest.fixture
def chat_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that OpenAI's package of LangChain takes for its own."""
    with serve(Words(), completions=False, strict=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


def test_a_model_by_its_name_in_a_config(chat_server: Server) -> None:
    config = {
        "proposer": {"type": "langchain", "model": "openai:small", "template": "<{prompt}>"},
        "scorer": {"type": "reward_model", "model": "embedded:reviews-reward"},
        "strategy": {"type": "sampling"},
        "generation": {"max_tokens": 7, "temperature": 0.5, "seed": 0},
    }
    model = load(config)
    assert isinstance(model, W2SLLM)
    best = model.model_copy(update={"strategy": BestOfN(n=3), "scorer": Longest()})
    assert len(best.invoke("x").split()) == 7
    assert len({body["seed"] for body in chat_server.bodies}) == 3
    for body in chat_server.bodies:
        assert (body["model"], body["temperature"]) == ("small", 0.5)
        assert body["messages"][0]["content"] == "<x>"
    assert len(model.invoke("x").split()) == 7
    again = load(model.to_config())
    assert isinstance(again, W2SLLM)
    assert again.to_config() == model.to_config()
    assert again.invoke("x") == model.invoke("x")
    assert "secret" not in repr(model) + str(model.to_config())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody:small", "Unable to infer|Unsupported"),
        ("anthropic:small", "langchain.anthropic"),
        ("openai:small", "api_key|OPENAI_API_KEY"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = {"proposer": {"type": "langchain", "model": name}, "strategy": {"type": "sampling"}}
    with pytest.raises(ConfigError, match=message) as caught:
        load(config)
    assert repr(name) in str(caught.value)


def test_chunks_where_the_model_can_be_told_their_length() -> None:
    model = Telling()
    answer = (
        llm(LangChainProposer(model), ChunkBeamSearch(width=2, successors=2, chunk_tokens=3))
        .generate(["x"])
        .generations[0][0]
    )
    assert len(answer.text.split()) == 12
    assert (answer.generation_info or {})["completion_tokens"] == 12
    assert {call["max_tokens"] for call in model.calls} == {3}
    assert all(call["prompt"].startswith("x") for call in model.calls)
    assert len({call["seed"] for call in model.calls}) == len(model.calls)
    again = llm(
        LangChainProposer(Telling()), ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)
    )
    assert again.invoke("x") == answer.text
    assert again.invoke("x", seed=1) != answer.text, "control"


def test_stop_strings_cut_across_chunks() -> None:
    whole = llm(LangChainProposer(Telling()), Sampling(), max_tokens=40).invoke("x")
    stop = whole[len(whole) // 2 :][:5]
    for strategy in (Sampling(), BestOfN(n=1)):
        model = llm(LangChainProposer(Telling()), strategy, max_tokens=40, stop=[stop])
        text = model.invoke("x")
        assert stop not in text
    assert text + stop in whole


@pytest.mark.parametrize(
    "model", [Plain(), GenericFakeChatModel(messages=iter([AIMessage("hi")]))], ids=["llm", "chat"]
)
def test_chunks_are_refused_where_there_can_be_none(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"use strategy best_of_n"):
        llm(LangChainProposer(model), ChunkBeamSearch()).invoke("x")


def test_a_model_that_ignores_the_limit_is_found_out() -> None:
    class Deaf(Telling):
        def _generate(self, prompts: Any, stop: Any = None, run_manager: Any = None, **kw: Any):
            return super()._generate(prompts, **{**kw, "max_tokens": 20})

    with pytest.raises(ProposerError, match="asked for 4 tokens and gave 20"):
        llm(LangChainProposer(Deaf()), ChunkBeamSearch(chunk_tokens=4)).invoke("x")


def test_a_token_more_for_a_whole_character_is_none_of_the_budget() -> None:
    class OneMore(Telling):
        def _generate(self, prompts: Any, stop: Any = None, run_manager: Any = None, **kw: Any):
            return super()._generate(prompts, **{**kw, "max_tokens": kw["max_tokens"] + 1})

    [[answer]] = ask(LangChainProposer(OneMore()), "x", sampling=SamplingParams(max_tokens=4))
    assert (answer.n_tokens, answer.finish_reason) == (4, "length")
    assert answer.usage.proposed_tokens == 5


def test_rows_are_those_of_a_server_with_a_cache() -> None:
    children = ask(LangChainProposer(Telling()), "x", successors=3, chunk_tokens=4)
    usage = children[0][0].usage
    assert (usage.proposed_tokens, usage.read_tokens) == (3 * 4, 1 + 3 * 3)


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature=0.5 has no effect"):
        llm(LangChainProposer(Plain()), BestOfN(), temperature=0.5).invoke("x")
    model = Plain()
    named = LangChainProposer(model, arguments={"temperature": "heat"})
    llm(named, BestOfN(), temperature=0.5).invoke("x")
    assert model.calls[0]["heat"] == 0.5


@pytest.mark.parametrize("wrong", ["gpt", HuggingFaceProposer, Plain() | (lambda text: text)])
def test_what_is_no_model_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="needs a LangChain LLM or chat model"):
        LangChainProposer(wrong)


def test_one_failure_harms_no_other_search() -> None:
    model = llm(LangChainProposer(Plain()), BestOfN(n=2))
    good, bad = model.batch(["good", "bad"], return_exceptions=True)
    assert isinstance(good, str)
    assert isinstance(bad, ValueError)


class Slow(Plain):
    seconds: float

    def _generate(self, *args: Any, **kw: Any):
        time.sleep(self.seconds)
        return super()._generate(*args, **kw)


def test_a_model_that_hangs_is_left_to_itself() -> None:
    started = time.monotonic()
    [answer] = ask(LangChainProposer(Slow(seconds=5), timeout=0.2), "x")
    assert isinstance(answer, ProposerError)
    cancelled = threading.Event()
    threading.Timer(0.1, cancelled.set).start()
    [answer] = ask(LangChainProposer(Slow(seconds=5)), "x", cancelled=cancelled.is_set)
    assert isinstance(answer, CancelledError)
    assert time.monotonic() - started < 4


def test_calls_under_way_are_capped() -> None:
    started = time.monotonic()
    proposer = LangChainProposer(Slow(seconds=0.1), max_concurrency=2, timeout=0.4)
    answers = ask(proposer, *"abcdefghij", sampling=SamplingParams(max_tokens=4))
    assert all(isinstance(answer, list) for answer in answers), "waiting does not count"
    assert time.monotonic() - started >= 0.5


class Raises(Plain):
    error: Any
    key: SecretStr = SecretStr("sk-hush")

    def _generate(self, *args: Any, **kw: Any):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StopIteration("over"), ProposerError),
        (StopAsyncIteration("over"), ProposerError),
        (ConnectionError("wrong key: sk-hush"), ProposerError),
        (SystemExit("bye"), ProposerError),
        (ConnectionError("no route"), ConnectionError),
    ],
)
def test_what_a_model_raises(error: Any, kind: Any) -> None:
    model = llm(LangChainProposer(Raises(error=error)), Sampling())
    for ask_it in (
        lambda: model.invoke("x"),
        lambda: asyncio.run(asyncio.wait_for(model.ainvoke("x"), 20)),
    ):
        with pytest.raises(kind) as caught:
            ask_it()
        told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__context__)
        assert "sk-hush" not in told


class Says(Telling):
    """It says of itself what it is told to."""

    text: str
    says: dict[str, Any]

    def _generate(self, *args: Any, **kw: Any):
        one = Generation(text=self.text, generation_info=self.says)
        return LLMResult(generations=[[one]])


@pytest.mark.parametrize(
    ("text", "says", "told"),
    [
        ("word " * 5000, {"completion_tokens": 8}, "as 8 tokens"),
        ("word " * 5000, {}, "as 12 tokens"),
        ("word", {"completion_tokens": -3}, "'-3' tokens, which is no count"),
        ("word", {"completion_tokens": "8"}, "'8' tokens, which is no count"),
        ("word", {"completion_tokens": float("nan")}, "no count"),
        ("word", {"completion_tokens": 8, "prompt_tokens": 1e300}, "no count"),
        ("word", {"finish_reason": "SAFETY"}, "ended an answer with 'safety'"),
        ("", {"finish_reason": "MAX_TOKENS"}, "no text for 8 tokens"),
    ],
)
def test_what_a_model_says_is_checked(text: str, says: dict[str, Any], told: str) -> None:
    proposer = LangChainProposer(Says(text=text, says=says))
    with pytest.raises(ProposerError, match=told):
        llm(proposer, Sampling(), max_tokens=8).invoke("x")


def test_the_prompt_counts_once() -> None:
    model = Says(text=" a b c", says={"completion_tokens": 3, "prompt_tokens": 27})
    beam = ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)
    [[answer]] = llm(LangChainProposer(model), beam).generate(["x"]).generations
    assert (answer.generation_info or {})["prompt_tokens"] == 27


def test_calls_that_hang_take_no_place_for_ever() -> None:
    proposer = LangChainProposer(Slow(seconds=30), timeout=0.2, max_concurrency=1)
    for _ in range(3):
        [answer] = ask(proposer, "x")
        assert isinstance(answer, ProposerError)
    proposer.model = Plain()
    [answer] = ask(proposer, "x")
    assert isinstance(answer, list)


def test_it_has_no_form_in_yaml() -> None:
    with pytest.raises(ConfigError, match="built by hand"):
        llm(LangChainProposer(Plain()), BestOfN()).to_config()
