"""W2SLLM from event loops: the same answers, shared model calls, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from tests.helpers.llms import (
    BEAM,
    PROMPT,
    PROMPTS,
    BadScorer,
    Recorder,
    endless,
    every_strategy,
    forwards,
    in_memory,
    nan_if_bad,
    wait_for_engine,
)
from w2s_chains import W2SLLM, HuggingFaceProposer, Hypothesis, Sampling, SearchStrategy
from w2s_chains.errors import ConfigError, ScorerError


@every_strategy
async def test_all_ways_to_call_agree(llm: W2SLLM, strategy: SearchStrategy) -> None:
    llm = llm.model_copy(update={"strategy": strategy, "stop": ("的",)})
    answer = llm.invoke(PROMPT)
    assert await llm.ainvoke(PROMPT) == answer
    assert await llm.abatch([PROMPT]) == [answer]
    assert await llm.abatch([PROMPT], return_exceptions=True) == [answer]
    assert "".join([piece async for piece in llm.astream(PROMPT)]) == answer
    assert (await llm.agenerate([PROMPT], n=2)).generations[0][0].text == answer
    assert await llm.ainvoke(PROMPT, seed=1) == llm.invoke(PROMPT, seed=1)
    as_text: Any = "e"
    assert await llm.ainvoke(PROMPT, stop=["e"]) == llm.invoke(PROMPT, stop=as_text)


async def test_in_chains(llm: W2SLLM) -> None:
    chain = PromptTemplate.from_template("The movie {what}") | llm | StrOutputParser()
    answer = llm.invoke("The movie was great")
    assert await chain.ainvoke({"what": "was great"}) == answer
    assert "".join([piece async for piece in chain.astream({"what": "was great"})]) == answer
    events: list[Any] = [
        event async for event in chain.astream_events({"what": "was great"}, version="v2")
    ]
    texts = [
        event["data"]["chunk"].text
        for event in events
        if event["event"] == "on_llm_stream" and hasattr(event["data"]["chunk"], "text")
    ]
    assert "".join(texts) == answer


async def test_sixteen_callers_share_model_calls(llm: W2SLLM) -> None:
    before = forwards(llm)
    singles = [await llm.ainvoke(prompt) for prompt in PROMPTS]
    alone = forwards(llm) - before
    before = forwards(llm)
    together = await asyncio.gather(*[llm.ainvoke(prompt) for prompt in PROMPTS])
    assert list(together) == singles
    assert len(set(singles)) > 10
    assert forwards(llm) - before < alone / 5


async def test_callers_with_different_settings_do_not_mix(llm: W2SLLM) -> None:
    settings: list[dict[str, Any]] = [
        {"seed": i, "temperature": i % 3 / 2, "max_tokens": 3 + i, "stop": ["e"] * (i % 2)}
        for i in range(8)
    ]
    settings[3]["strategy"] = Sampling()
    wanted = [llm.invoke(PROMPTS[i], **options) for i, options in enumerate(settings)]

    async def stream(i: int) -> str:
        return "".join([piece async for piece in llm.astream(PROMPTS[i], **settings[i])])

    mixed = [stream(i) if i % 2 else llm.ainvoke(PROMPTS[i], **settings[i]) for i in range(8)]
    assert list(await asyncio.gather(*mixed)) == wanted


async def test_event_loops_in_several_threads(llm: W2SLLM) -> None:
    wanted = llm.batch(PROMPTS[:4])
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        answers[i] = asyncio.run(llm.ainvoke(PROMPTS[i]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*[asyncio.to_thread(thread.join, 30) for thread in threads])
    assert [answers[i] for i in range(4)] == wanted


async def test_the_event_loop_stays_free_while_models_run(llm: W2SLLM) -> None:
    llm = endless(llm, Sampling(), 100)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    heart = asyncio.create_task(beat())
    await llm.ainvoke(PROMPT)
    heart.cancel()
    assert beats > 5


# Callbacks.


async def test_callbacks(llm: W2SLLM) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    answer = await llm.ainvoke(PROMPT, config)
    await llm.abatch([PROMPT, "x"], config)
    await llm.abatch([PROMPT, "x"], config, return_exceptions=True)
    assert recorder.tokens == []
    assert (recorder.starts, recorder.ends, recorder.errors) == (5, 5, 0)
    assert "".join([piece async for piece in llm.astream(PROMPT, config)]) == answer
    assert "".join(recorder.tokens) == answer


async def test_callbacks_may_be_an_empty_list(llm: W2SLLM) -> None:
    answer = llm.invoke(PROMPT)
    assert await llm.ainvoke(PROMPT, {"callbacks": []}) == answer
    assert await llm.abatch([PROMPT], {"callbacks": []}) == [answer]
    assert "".join([p async for p in llm.astream(PROMPT, {"callbacks": []})]) == answer


async def test_a_progress_bar_on_request(
    llm: W2SLLM, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    one, three = llm.max_tokens, 3 * llm.max_tokens
    await llm.abatch(PROMPTS[:3], progress=True)
    assert f" {three}/{three} " in capfd.readouterr().err
    await llm.abatch(PROMPTS[:3], progress=True, return_exceptions=True)
    shown = capfd.readouterr().err
    assert f" {three}/{three} " in shown
    assert f" {one}/{one} " not in shown
    await llm.abatch(PROMPTS[:3])
    assert capfd.readouterr().err == ""


# Failures and cancelling.


async def test_a_bad_prompt_fails_alone(proposer: HuggingFaceProposer) -> None:
    llm = W2SLLM(
        proposer=proposer, scorer=BadScorer(nan_if_bad), strategy=BEAM, max_tokens=8, seed=0
    )
    prompts = ["good one", "bad one", "another good"]
    good = [llm.invoke(prompts[0]), llm.invoke(prompts[2])]
    outcomes: list[Any] = await llm.abatch(prompts, return_exceptions=True)
    assert outcomes[::2] == good
    assert isinstance(outcomes[1], ScorerError)
    with pytest.raises(ScorerError, match="NaN"):
        await llm.abatch(prompts)
    with pytest.raises(ScorerError, match="NaN"):
        [piece async for piece in llm.astream("bad one")]
    together = await asyncio.gather(*map(llm.ainvoke, prompts), return_exceptions=True)
    assert [together[0], together[2]] == good
    assert isinstance(together[1], ScorerError)


async def test_a_batch_with_limited_concurrency(llm: W2SLLM) -> None:
    wanted = llm.batch(PROMPTS[:6])
    for options in ({}, {"return_exceptions": True}):
        assert await llm.abatch(PROMPTS[:6], {"max_concurrency": 2}, **options) == wanted


async def test_a_stream_of_several_answers_is_refused(llm: W2SLLM) -> None:
    with pytest.raises(ConfigError, match=r"n is 2; set n=1"):
        [piece async for piece in llm.astream(PROMPT, n=2)]


@pytest.mark.parametrize("how", ["break", "aclose", "time-out"])
async def test_a_stream_that_is_left_stops_the_engine(
    llm: W2SLLM, how: str, frozen_gc: None
) -> None:
    llm = endless(llm, Sampling(), 200)
    wait_for_engine()
    live, before = in_memory(), forwards(llm)

    async def leave() -> None:
        stream: Any = llm.astream(PROMPT)
        async for _ in stream:
            if how == "aclose":
                await stream.aclose()
            if how == "time-out":
                await asyncio.sleep(0)
                raise TimeoutError
            break

    with contextlib.suppress(TimeoutError):
        await leave()
    for _ in range(5):  # an abandoned generator is closed by the loop
        await asyncio.sleep(0)
    wait_for_engine()
    assert forwards(llm) - before < 100
    assert in_memory() == live
    await llm.ainvoke(PROMPT)
    assert forwards(llm) - before > 200, "control: a whole answer takes many more"


async def test_a_timeout_stops_the_engine(proposer: HuggingFaceProposer) -> None:
    class Slow:
        scored = 0

        def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
            self.scored += 1
            threading.Event().wait(0.02)
            return [0.0] * len(hypotheses)

    slow = Slow()
    llm = W2SLLM(proposer=proposer, scorer=slow, strategy=BEAM, max_tokens=400, seed=0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await llm.ainvoke(PROMPT)
    await asyncio.to_thread(wait_for_engine)
    assert slow.scored < 15
