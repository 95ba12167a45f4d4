"""All ways to call a ChatW2S: overrides, several answers, LangChain's wrappers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import message_chunk_to_message
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda, RunnableParallel

from tests.helpers.chats import TALK, texts
from tests.helpers.llms import PROMPT, Recorder, every_strategy, forwards
from w2s_chains import BestOfN, ChatW2S, HuggingFaceProposer, Hypothesis, Sampling, SearchStrategy
from w2s_chains.errors import ConfigError

# Ways to call.


@every_strategy
@pytest.mark.parametrize("stop", [(), ("a", "的", "  ")], ids=["", "stop"])
async def test_all_ways_to_call_agree(
    chat: ChatW2S, strategy: SearchStrategy, stop: tuple[str, ...]
) -> None:
    chat = chat.model_copy(update={"strategy": strategy, "stop": stop})
    answer = chat.invoke(TALK).content
    assert "".join(chunk.text for chunk in chat.stream(TALK)) == answer
    assert texts(chat.batch([TALK, PROMPT]))[0] == answer
    assert texts(chat.batch([TALK], return_exceptions=True)) == [answer]
    assert chat.generate([TALK, TALK[1:]]).generations[0][0].text == answer
    assert (await chat.ainvoke(TALK)).content == answer
    assert texts(await chat.abatch([PROMPT, TALK]))[1] == answer
    assert "".join([chunk.text async for chunk in chat.astream(TALK)]) == answer
    assert (await chat.agenerate([TALK, TALK])).generations[1][0].text == answer
    streaming = chat.model_copy(update={"streaming": True, "callbacks": None})
    assert (
        ChatW2S(**{f: getattr(streaming, f) for f in ChatW2S.model_fields}).invoke(TALK).content
        == answer
    )
    assert not any(s in str(answer) for s in stop)
    # Control: another seed, another answer.
    assert any(chat.invoke(TALK, seed=seed).content != answer for seed in (1, 2, 3))


def test_a_stream_is_its_final_message(chat: ChatW2S) -> None:
    long = chat.model_copy(update={"strategy": Sampling(), "max_tokens": 60})
    chunks = list(long.stream(TALK))
    assert sum(bool(chunk.content) for chunk in chunks) > 2
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    final, invoked = message_chunk_to_message(whole), long.invoke(TALK)
    for name in ("content", "response_metadata", "usage_metadata"):
        assert getattr(final, name) == getattr(invoked, name), name
    assert chunks[0].usage_metadata is None


def test_in_chains(chat: ChatW2S) -> None:
    template = ChatPromptTemplate.from_messages(
        [("system", "Be {how}."), MessagesPlaceholder("talk"), ("human", "more")]
    )
    chain = template | chat | StrOutputParser()
    given = {"how": "kind", "talk": TALK[1:3]}
    answer = chat.invoke(TALK).content
    assert chain.invoke(given) == "".join(chain.stream(given)) == answer
    assert chain.batch([given, {**given, "how": "rude"}])[0] == answer
    both = RunnableParallel(guided=chat, base=chat.bind(strategy=Sampling()))
    assert both.invoke(TALK)["base"].content == chat.invoke(TALK, strategy=Sampling()).content
    assert chat.with_fallbacks([chat]).invoke(TALK).content == answer
    assert chat.with_config(tags=["x"]).invoke(TALK).content == answer


# Overrides.


def test_a_call_can_override_everything_that_answers_depend_on(chat: ChatW2S) -> None:
    changed = {
        "max_tokens": 3, "temperature": 0.0, "seed": 9, "top_p": 0.3, "top_k": 2,
        "repetition_penalty": 3.0, "stop": ["e"], "strategy": Sampling(), "n": 2,
    }  # fmt: skip
    before = chat.asdict()
    fields = {name: getattr(chat, name) for name in ChatW2S.model_fields}
    for name, value in changed.items():
        rebuilt = ChatW2S(**{**fields, name: value}).invoke(TALK).content
        assert chat.invoke(TALK, **{name: value}).content == rebuilt, name
        assert chat.bind(**{name: value}).invoke(TALK).content == rebuilt, name
        if name != "n":
            streamed = chat.stream(TALK, **{name: value})
            assert "".join(chunk.text for chunk in streamed) == rebuilt, name
    assert chat.invoke(TALK, strategy={"type": "best_of_n", "n": 5}).content == (
        chat.invoke(TALK, strategy=BestOfN(n=5)).content
    )
    assert chat.asdict() == before
    answers = {str(chat.invoke(TALK, **{name: value}).content) for name, value in changed.items()}
    assert len(answers) > 5, "control: most of them change the answer"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temprature": 1}, "'temprature'.*did you mean 'temperature'"),
        ({"temperature": -1}, "temperature.*-1"),
        ({"strategy": {"type": "beam"}}, "unknown strategy"),
        ({"proposer": None}, "'proposer'"),
    ],
)
def test_a_wrong_argument_is_refused_before_any_model_runs(
    chat: ChatW2S, options: Any, told: str
) -> None:
    before = forwards(chat)
    recorder = Recorder()
    for call in (
        lambda: chat.invoke(TALK, {"callbacks": [recorder]}, **options),
        lambda: chat.batch([TALK, TALK], **options),
        lambda: list(chat.stream(TALK, **options)),
        lambda: chat.generate([TALK, TALK], **options),
        lambda: asyncio.run(chat.ainvoke(TALK, **options)),
        lambda: asyncio.run(chat.abatch([TALK], **options)),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
    parts: dict[str, Any] = {"proposer": chat.proposer, "scorer": chat.scorer}
    with pytest.raises(ConfigError, match=next(iter(options))):
        ChatW2S(**{**parts, **options})
    assert forwards(chat) == before
    assert recorder.starts == 0


def test_stop_as_text_or_list(chat: ChatW2S) -> None:
    chat = chat.model_copy(update={"strategy": Sampling(), "max_tokens": 30})
    whole = str(chat.invoke(TALK).content)
    mark = whole[len(whole) // 2 :][:2]
    cut = whole[: whole.index(mark)]
    assert cut != whole
    assert chat.invoke(TALK, stop=[mark]).content == cut
    assert chat.bind(stop=mark).invoke(TALK).content == cut
    configured = chat.model_copy(update={"stop": (mark,)})
    assert configured.invoke(TALK).content == cut
    assert configured.invoke(TALK).response_metadata["finish_reason"] == "stop"
    assert configured.invoke(TALK, stop=[]).content == whole


def test_n_answers(chat: ChatW2S) -> None:
    one, [many] = chat.invoke(TALK), chat.generate([TALK], n=4).generations
    assert many[0].text == one.content == chat.invoke(TALK, n=4).content
    assert len({own.text for own in many}) > 2
    twice = chat.generate([TALK, TALK[1:]], n=4).generations
    assert [own.text for own in twice[0]] == [own.text for own in many]
    assert len({own.message.id for own in many if isinstance(own, ChatGeneration)}) == 4
    with pytest.raises(ConfigError, match="n is 2; set n=1"):
        list(chat.stream(TALK, n=2))
    with pytest.raises(ConfigError, match="n is 2; set n=1"):
        list(chat.model_copy(update={"n": 2}).stream(TALK))


async def test_events_of_a_chain_with_several_answers(chat: ChatW2S) -> None:
    """``astream_events`` makes ``invoke`` stream, which must not forbid several answers."""

    async def ask(_: Any) -> str:
        return str((await chat.ainvoke(TALK, n=2)).content)

    events: list[Any] = [e async for e in RunnableLambda(ask).astream_events("x", version="v2")]
    assert events[-1]["data"]["output"] == chat.invoke(TALK).content


# LangChain's own wrappers.


def test_the_rate_limiter_is_asked(chat: ChatW2S) -> None:
    asked: list[int] = []

    class Limiter(InMemoryRateLimiter):
        def acquire(self, *, blocking: bool = True) -> bool:
            asked.append(1)
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            asked.append(1)
            return True

    limited = chat.model_copy(update={"rate_limiter": Limiter()})
    limited.batch([TALK, TALK])
    list(limited.stream(TALK))
    asyncio.run(limited.ainvoke(TALK))
    assert len(asked) == 4


def test_with_retry_tries_again(proposer: HuggingFaceProposer) -> None:
    tries: list[int] = []

    class Shaky:
        def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
            tries.append(1)
            if len(tries) == 1:
                raise RuntimeError("not now")
            return [0.0] * len(hypotheses)

    chat = ChatW2S(proposer=proposer, scorer=Shaky(), max_tokens=8, seed=0)
    retried = chat.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    assert retried.invoke(TALK).content == chat.invoke(TALK).content
    assert len(tries) > 1


def test_a_trace_of_a_conversation(chat: ChatW2S) -> None:
    messages = [("system", "Be brief."), ("human", "How was it?")]
    trace = chat.trace(messages)
    assert trace.answer is not None
    assert trace.answer.text == chat.invoke(messages).content
    assert trace.prompt == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How was it?"},
    )
    assert trace.prompt_text == "system: Be brief.\nuser: How was it?"
