"""Failures and cancelling, of W2SLLM and ChatW2S alike."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import wait
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.llms import (
    BEAM,
    PROMPT,
    PROMPTS,
    BadScorer,
    endless,
    engine_threads,
    forwards,
    in_memory,
    text,
    wait_for_engine,
)
from tests.helpers.tracing import Traced
from w2s_chains import W2SLLM, ChatW2S, HuggingFaceProposer, Hypothesis, LogRatioScorer, Sampling
from w2s_chains.engine.waiting import Together
from w2s_chains.errors import CancelledError


@pytest.mark.parametrize("way", ["batch", "generate", "abatch"])
def test_the_first_error_of_a_batch_ends_the_others(
    scorer: LogRatioScorer, way: str, frozen_gc: None
) -> None:
    class Fails(BadScorer):
        def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
            if any("bad" in h.prompt.plain_text for h in hypotheses):
                raise ZeroDivisionError
            return [float(len(h.response)) for h in hypotheses]

    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=True)
    chat: Any = ChatW2S(proposer=proposer, scorer=Fails(len), strategy=BEAM, seed=0)
    chat = endless(_as_llm(chat), BEAM, 300)
    prompts = [PROMPT, "bad"]
    wait_for_engine()
    live, before = in_memory(), forwards(chat)
    model = ChatW2S(**{name: getattr(chat, name) for name in W2SLLM.model_fields})
    messages = [model._convert_input(prompt).to_messages() for prompt in prompts]
    call = {
        "batch": lambda: model.batch(prompts),
        "generate": lambda: model.generate(messages),
        "abatch": lambda: asyncio.run(model.abatch(prompts)),
    }[way]
    with pytest.raises(ZeroDivisionError):
        call()
    wait_for_engine()
    assert forwards(chat) - before < 100, "the long one was stopped"
    assert in_memory() == live
    model.invoke(PROMPT)
    assert forwards(chat) - before > 150, "control: alone it takes many more"


def _as_llm(chat: ChatW2S) -> W2SLLM:
    return W2SLLM(**{name: getattr(chat, name) for name in W2SLLM.model_fields})


def test_an_interrupted_batch_of_calls_stops_the_engine(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model.model_copy(update={"strategy": Sampling(), "max_tokens": 400})
    main = threading.main_thread()

    def interrupt(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        return wait(*args, **kwargs)

    monkeypatch.setattr("w2s_chains.engine.waiting.wait", interrupt)
    before = forwards(model)
    with pytest.raises(KeyboardInterrupt):
        model.batch(PROMPTS, return_exceptions=True)
    wait_for_engine()
    early = forwards(model)
    monkeypatch.undo()
    model.batch(PROMPTS)
    assert early - before < (forwards(model) - early) / 2, "undisturbed it takes many more"


def test_calls_that_come_after_their_batch_was_given_up_are_cancelled(model: Any) -> None:
    group = Together(None)
    early = model.engine.submit(model.jobs([PROMPT]))
    group.add(early)
    group.give_up()
    late = model.engine.submit(model.jobs([PROMPT]))
    group.add(late)
    for one in (*early, *late):
        assert one.cancelled
    [free] = model.engine.submit(model.jobs([PROMPT]))  # control
    assert free.future.result().text == text(model.invoke(PROMPT))
    with contextlib.suppress(CancelledError):
        late[0].future.result()


@pytest.fixture(params=[W2SLLM, ChatW2S])
def long(request: pytest.FixtureRequest, scorer: LogRatioScorer) -> Any:
    """A model of each kind, whose answers take 200 calls of the proposer."""
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=True)
    llm = endless(W2SLLM(proposer=proposer, scorer=scorer), Sampling(), 200)
    return request.param(**{name: getattr(llm, name) for name in W2SLLM.model_fields})


@pytest.mark.parametrize("how", ["close", "delete", "break", "raise"])
def test_a_stream_that_is_left_stops_the_engine_and_frees_its_memory(
    long: Any, how: str, frozen_gc: None
) -> None:
    wait_for_engine()
    live, before = in_memory(), forwards(long)
    stream: Any = long.stream(PROMPT)
    next(stream)
    assert in_memory()["Segment"] > live["Segment"], "control: there is something to free"
    if how == "close":
        stream.close()
    elif how == "raise":
        with pytest.raises(KeyError):
            stream.throw(KeyError("caller"))
    elif how == "break":
        for _ in stream:
            break
    del stream
    wait_for_engine()
    early = forwards(long)
    assert early - before < 100
    assert in_memory() == live
    long.invoke(PROMPT)
    assert forwards(long) - early > 200, "control: a whole answer takes many more calls"
    wait_for_engine()
    assert in_memory() == live


@pytest.mark.parametrize("begun", ["in the loop", "outside"])
def test_a_stream_whose_loop_was_closed_stops_the_engine_and_says_nothing(
    long: Any, begun: str, frozen_gc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    wait_for_engine()
    live, before = in_memory(), forwards(long)

    async def first(stream: Any) -> Any:
        return await anext(stream)

    loop = asyncio.new_event_loop()
    stream: Any = long.astream(PROMPT)
    # asyncio closes only streams that were begun while a loop was running.
    loop.run_until_complete(first(stream) if begun == "in the loop" else anext(stream))
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stream
        gc.collect()
    wait_for_engine()
    assert forwards(long) - before < 150, "the whole answer takes 200"
    assert not told
    assert in_memory() == live


@pytest.mark.parametrize("how", ["invoke", "batch", "generate", "stream", "listened"])
async def test_a_cancelled_task_stops_the_engine_and_harms_nobody(
    long: Any, how: str, frozen_gc: None, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = text(long.invoke("another", max_tokens=100))
    wait_for_engine()
    live, before = in_memory(), forwards(long)

    async def stream() -> None:
        async for _ in long.astream(PROMPT):
            pass

    calls: dict[str, Any] = {
        "invoke": lambda: long.ainvoke(PROMPT),
        "batch": lambda: long.abatch([PROMPT] * 3),
        "generate": lambda: long.agenerate_prompt([long._convert_input(PROMPT)] * 3),
        "stream": stream,
        "listened": lambda: long.ainvoke(PROMPT, {"callbacks": [Traced()]}),
    }
    task = asyncio.ensure_future(calls[how]())
    neighbour = asyncio.create_task(long.ainvoke("another", max_tokens=100))
    async with asyncio.timeout(20):
        while forwards(long) == before:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert text(await neighbour) == wanted
    wait_for_engine()
    assert forwards(long) - before < 150, "the cancelled one would take 200"
    assert not caplog.records, "the engine has nothing to complain about"
    del task, neighbour
    await asyncio.sleep(0)
    assert in_memory() == live


async def test_two_hundred_callers_of_whom_some_give_up(model: Any, frozen_gc: None) -> None:
    prompts = [f"{'The film is ' * (i % 4)}number {i}" for i in range(200)]
    undisturbed = [text(answer) for answer in model.batch(prompts)]
    assert len(set(undisturbed)) > 150
    wait_for_engine()
    threads, live = threading.active_count(), in_memory()
    chance = random.Random(0)
    tasks = [asyncio.create_task(model.ainvoke(prompt)) for prompt in prompts]
    victims = chance.sample(range(200), 100)
    for victim in victims:
        await asyncio.sleep(chance.random() * 0.01)
        tasks[victim].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    cancelled = [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes]
    assert 50 < sum(cancelled) <= 100, "the test needs many that were cancelled in time"
    for outcome, gone, wanted in zip(outcomes, cancelled, undisturbed, strict=True):
        if not gone:
            assert text(outcome) == wanted
    del tasks, outcomes
    await asyncio.to_thread(wait_for_engine)
    await asyncio.sleep(0)
    assert in_memory() == live
    assert not engine_threads()
    assert threading.active_count() <= threads + 1  # ``to_thread`` keeps one
    other = [text(a) for a in await model.abatch(prompts, seed=1)]
    assert other != undisturbed, "control: another seed, other answers"
