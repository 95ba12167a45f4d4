"""What both interfaces of LangChain promise alike: W2SLLM and ChatW2S on tiny random models."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
import random
import threading
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd
from langchain_core.messages import trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import (
    ConfigurableField,
    ConfigurableFieldSingleOption,
    RunnableLambda,
)
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from tests import tiny
from tests.test_llms import (
    BEAM,
    PROMPT,
    PROMPTS,
    BadScorer,
    ByLength,
    endless,
    engine_threads,
    forwards,
    frozen_gc,
    in_memory,
    wait_for_engine,
)
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    EmulatedFineTuning,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
    load,
)
from w2s_chains.engine.waiting import Together
from w2s_chains.errors import CancelledError, ConfigError, W2SError
from w2s_chains.langchain.tracing import ChunkRuns

__all__ = ["frozen_gc"]  # a fixture


@pytest.fixture(params=[W2SLLM, ChatW2S])
def model(request: pytest.FixtureRequest, scorer: LogRatioScorer) -> Any:
    kind = request.param
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=kind is ChatW2S)
    return kind(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)


def text(answer: Any) -> str:
    return answer if isinstance(answer, str) else answer.content


# One setting, however it is said.

SETTINGS: list[dict[str, Any]] = [
    {"strategy": {"type": "best_of_n", "n": 3}},
    {"strategy": {"type": "emulated_fine_tuning", "beta": 0.5}},
    {"temperature": 0.0},
    {"max_tokens": 5},
    {"top_p": 0.3, "top_k": 5},
    {"repetition_penalty": 0.1},
    {"seed": 3},
    {"stop": ["e", "a"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s))
def test_config_call_and_yaml_mean_the_same(
    model: Any, settings: dict[str, Any], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    fields = {name: ConfigurableField(id=name) for name in settings}
    configurable = model.configurable_fields(**fields)
    called = text(model.invoke(PROMPT, **settings))
    assert text(configurable.with_config(configurable=settings).invoke(PROMPT)) == called
    assert text(configurable.invoke(PROMPT, {"configurable": settings})) == called
    assert text(model.bind(**settings).invoke(PROMPT)) == called
    streamed = configurable.with_config(configurable=settings).stream(PROMPT)
    assert "".join(map(text, streamed)) == called
    assert (
        list(map(text, configurable.batch([PROMPT] * 2, {"configurable": settings})))
        == [called] * 2
    )
    # Controls: the setting changes the answer, and no model was loaded for it.
    assert called != text(model.invoke(PROMPT)) == text(configurable.invoke(PROMPT))
    prepared, _ = configurable._prepare({"configurable": settings})
    assert prepared.proposer is model.proposer
    # The same in a file.
    values: dict[str, Any] = {
        "type": model.config_type,
        "proposer": {"model": str(tiny_folders["proposer"])},
        "guide": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")},
        "strategy": BEAM.model_dump(mode="json"),
        "generation": {"max_tokens": 12, "seed": 0},
    }
    plain = load(values)
    file = tmp_path / "w2s.yaml"
    generation = {name: value for name, value in settings.items() if name != "strategy"}
    values["generation"] |= generation
    file.write_text(yaml.safe_dump({**values, **({} if generation else settings)}))
    written = load(file)
    assert type(written) is type(plain) is type(model)
    assert text(written.invoke(PROMPT)) == text(plain.invoke(PROMPT, **settings))
    assert text(written.invoke(PROMPT)) != text(plain.invoke(PROMPT)), "control"


def test_a_scorer_is_configurable(model: Any) -> None:
    open_model = model.configurable_fields(scorer=ConfigurableField(id="scorer"))
    by_length = ByLength()
    other = open_model.with_config(configurable={"scorer": by_length}).invoke(PROMPT)
    assert text(other) == text(model.model_copy(update={"scorer": by_length}).invoke(PROMPT))
    assert text(other) != text(model.invoke(PROMPT)) == text(open_model.invoke(PROMPT))


OTHER = EmulatedFineTuning(beta=2.0)


def test_named_options_and_alternatives(model: Any) -> None:
    base = text(model.invoke(PROMPT))
    eft, plain = (text(model.invoke(PROMPT, strategy=s)) for s in (OTHER, Sampling()))
    assert len({base, eft, plain}) == 3
    options = model.configurable_fields(
        strategy=ConfigurableFieldSingleOption(
            id="how", options={"beam": BEAM, "eft": OTHER}, default="beam"
        )
    )
    assert text(options.invoke(PROMPT)) == base
    assert text(options.invoke(PROMPT, {"configurable": {"how": "eft"}})) == eft
    alternatives = model.configurable_alternatives(
        ConfigurableField(id="search"),
        default_key="guided",
        eft=model.model_copy(update={"strategy": OTHER}),
        plain=model.bind(strategy=Sampling()),
        lazy=lambda: model.model_copy(update={"strategy": Sampling()}),
    )
    chain = alternatives | StrOutputParser()
    for name, answer in {"guided": base, "eft": eft, "plain": plain, "lazy": plain}.items():
        config: Any = {"configurable": {"search": name}}
        assert text(alternatives.invoke(PROMPT, config)) == answer
        assert "".join(map(text, alternatives.stream(PROMPT, config))) == answer
        assert chain.with_config(config).batch([PROMPT, PROMPT]) == [answer] * 2
        assert asyncio.run(chain.ainvoke(PROMPT, config)) == answer
    with pytest.raises(ValueError, match="Unknown alternative"):
        alternatives.invoke(PROMPT, {"configurable": {"search": "none"}})


def test_a_wrong_configurable_is_told(model: Any) -> None:
    open_model = model.configurable_fields(strategy=ConfigurableField(id="strategy"))
    wrong = open_model.with_config(configurable={"strategy": {"type": "chunk_bean"}})
    with pytest.raises(ConfigError, match="did you mean 'chunk_beam'"):
        wrong.invoke(PROMPT)


# What callbacks and tracers are told.


class Traced(BaseTracer):
    """Keeps whole runs, as LangSmith gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []
        self.threads: set[threading.Thread] = set()

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def _on_chain_end(self, run: Run) -> None:
        self.threads.add(threading.current_thread())


def chunks_below(run: Run) -> list[Run]:
    return [child for child in run.child_runs if child.name == "w2s_chunk"]


def test_metadata_names_models_strategy_and_versions(model: Any) -> None:
    tracer = Traced()
    model.invoke(
        PROMPT, {"callbacks": [tracer]}, strategy=BestOfN(n=2), temperature=0.5, stop=["%"]
    )
    list(model.stream(PROMPT, {"callbacks": [tracer]}, strategy=BestOfN(n=2), temperature=0.5,
                      stop=["%"]))  # fmt: skip
    for run in tracer.roots:
        metadata = (run.extra or {})["metadata"]
        assert metadata["ls_provider"] == "w2s"
        assert metadata["ls_model_name"] == "HuggingFaceProposer"
        assert metadata["ls_model_type"] == ("chat" if isinstance(model, ChatW2S) else "llm")
        assert metadata["ls_temperature"] == 0.5
        assert metadata["ls_max_tokens"] == 12
        assert metadata["ls_stop"] == ["%"]
        assert metadata["w2s_strategy"] == {"type": "best_of_n", "n": 2, "steering": 0.0}
        assert "LogRatioScorer(" in metadata["w2s_guides"]
        assert "GuidePair(HuggingFaceGuide" in metadata["w2s_guides"]
        assert {"langchain-core", "w2s_chains", "torch", "transformers"} <= set(
            metadata["lc_versions"]
        )
    # The invocation's own parameters, as far as LangChain passes a call's: they are in ``invoke``.
    params = (tracer.roots[0].extra or {})["invocation_params"]
    assert params["strategy"]["n"] == 2
    assert params["temperature"] == 0.5
    assert params["seed"] == 0


@pytest.mark.parametrize(
    "way", ["invoke", "batch", "each", "stream", "ainvoke", "abatch", "astream"]
)
def test_chunks_are_child_runs_of_their_own_prompt(model: Any, way: str) -> None:
    tracer = Traced()
    config: Any = {"callbacks": [tracer]}
    prompts = PROMPTS[:3]

    async def astream() -> None:
        async for _ in model.astream(PROMPT, config):
            pass

    {
        "invoke": lambda: model.invoke(PROMPT, config),
        "batch": lambda: model.batch(prompts, config),
        "each": lambda: model.batch(prompts, config, return_exceptions=True),
        "stream": lambda: list(model.stream(PROMPT, config)),
        "ainvoke": lambda: asyncio.run(model.ainvoke(PROMPT, config)),
        "abatch": lambda: asyncio.run(model.abatch(prompts, config)),
        "astream": lambda: asyncio.run(astream()),
    }[way]()
    assert len(tracer.roots) == (3 if way in ("batch", "each", "abatch") else 1)
    for run in tracer.roots:
        steps = chunks_below(run)
        assert [step.inputs for step in steps] == [{"answer": 0, "step": i} for i in range(3)]
        answer = _answer_of(run)
        last = (steps[-1].outputs or {})["candidates"]
        assert answer in [candidate["text"] for candidate in last]
        assert (steps[0].outputs or {})["of"] == 4
        assert all(isinstance(c["score"], float) for c in last)
    assert not tracer.threads & set(engine_threads())
    assert all(thread.name != "w2s-engine" for thread in tracer.threads)


def _answer_of(run: Run) -> str:
    [[generation]] = (run.outputs or {})["generations"]
    return generation["text"]


def test_several_answers_are_told_apart(model: Any) -> None:
    tracer = Traced()
    model.invoke(PROMPT, {"callbacks": [tracer]}, n=2)
    steps = [step.inputs for step in chunks_below(tracer.roots[0])]
    assert sorted(step["step"] for step in steps if step["answer"] == 1) == [0, 1, 2]
    assert len(steps) == 6


def test_answers_do_not_depend_on_who_listens(model: Any) -> None:
    config: Any = {"callbacks": [Traced()]}
    for strategy in (BEAM, BestOfN(n=3), Sampling(), EmulatedFineTuning()):
        quiet = [text(answer) for answer in model.batch(PROMPTS, strategy=strategy)]
        heard = [text(answer) for answer in model.batch(PROMPTS, config, strategy=strategy)]
        assert heard == quiet
    assert [text(a) for a in model.batch(PROMPTS, config, seed=1)] != quiet, "control"


def test_nobody_listens_and_nothing_is_told(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(self: Any, *args: Any) -> None:
        raise AssertionError("told")

    class Deaf(BaseCallbackHandler):
        ignore_chain = True

    monkeypatch.setattr(ChunkRuns, "tell", tell)
    model.invoke(PROMPT)
    model.invoke(PROMPT, {"callbacks": [Deaf()]})
    with pytest.raises(AssertionError, match="told"):  # control
        model.invoke(PROMPT, {"callbacks": [Traced()]})


def test_what_is_told_is_bounded(model: Any) -> None:
    tracer = Traced()
    wide = ChunkBeamSearch(width=4, successors=6, chunk_tokens=100)
    model.invoke(PROMPT, {"callbacks": [tracer]}, strategy=wide, max_tokens=400)
    outputs = [step.outputs or {} for step in chunks_below(tracer.roots[0])]
    assert outputs
    for output in outputs:
        assert len(output["candidates"]) <= 16
        assert all(len(candidate["text"]) <= 200 for candidate in output["candidates"])
    assert outputs[0]["of"] == 24, "control: there were more"
    assert any(len(c["text"]) == 200 for output in outputs for c in output["candidates"])
    scores = [candidate["score"] for candidate in outputs[0]["candidates"]]
    assert len(scores) == 16


def test_handlers_of_the_model_itself_are_told_too(model: Any) -> None:
    tracer = Traced()
    own = model.model_copy(update={"callbacks": [tracer]})
    own.invoke(PROMPT)
    list(own.stream(PROMPT))
    assert [len(chunks_below(run)) for run in tracer.roots] == [3, 3]


async def test_events_of_a_chain(model: Any) -> None:
    kind = "on_chat_model" if isinstance(model, ChatW2S) else "on_llm"

    async def ask(prompt: str) -> str:
        return text(await model.ainvoke(prompt))

    for chain in (model, model | StrOutputParser(), RunnableLambda(ask)):
        events = [event async for event in chain.astream_events(PROMPT, version="v2")]
        chunks = [e for e in events if e["name"] == "w2s_chunk"]
        assert [e["event"] for e in chunks] == ["on_chain_start", "on_chain_end"] * 3
        [run] = [e["run_id"] for e in events if e["event"] == f"{kind}_start"]
        assert all(e["parent_ids"][-1] == run for e in chunks)
        assert len(chunks[1]["data"]["output"]["candidates"]) == 4
        if chain is not model or kind == "on_chat_model":
            pieces = [e["data"]["chunk"] for e in events if e["event"] == f"{kind}_stream"]
            answer = text(model.invoke(PROMPT))
            assert "".join(getattr(piece, "text", piece) for piece in pieces) in (answer, "")
    assert not any(e["name"] == "w2s_chunk" for e in await _quiet_events(model))


async def _quiet_events(model: Any) -> list[Any]:
    """Control: a strategy that never chooses has nothing to tell."""
    events = model.astream_events(PROMPT, version="v2", strategy=Sampling())
    return [event async for event in events]


async def test_stream_events_v3(scorer: LogRatioScorer) -> None:
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=True)
    chat = ChatW2S(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)
    tracer = Traced()
    stream = chat.stream_events(PROMPT, {"callbacks": [tracer]}, version="v3")
    assert stream.output.text == chat.invoke(PROMPT).content
    assert len(chunks_below(tracer.roots[0])) == 3
    astream = await chat.astream_events(PROMPT, {"callbacks": [tracer]}, version="v3")
    assert (await astream.output).text == chat.invoke(PROMPT).content
    while len(tracer.roots) < 2:  # its run ends a little later
        await asyncio.sleep(0.001)
    assert len(chunks_below(tracer.roots[1])) == 3


# Objects.


def test_copies_share_the_parts_and_nothing_is_pickled(model: Any) -> None:
    answer = text(model.invoke(PROMPT))
    for other in (
        copy.copy(model), copy.deepcopy(model), model.model_copy(), model.model_copy(deep=True),
        model.bind(seed=0).bound, model.with_config(tags=["x"]).bound,
    ):  # fmt: skip
        assert type(other) is type(model)
        for part in ("proposer", "scorer", "engine"):
            assert getattr(other, part) is getattr(model, part)
        assert text(other.invoke(PROMPT)) == answer
    other = copy.deepcopy(model)
    other.seed = 5
    assert model.seed == 0
    with pytest.raises(W2SError, match=r"cannot be pickled.*to_config.*from_config"):
        pickle.dumps(model)


def test_langchain_can_show_it_and_does_not_serialise_it(model: Any) -> None:
    model.invoke(PROMPT)
    for thing in (model, model.bind(seed=1), model | StrOutputParser()):
        assert "not_implemented" in str(dumpd(thing))
    assert dumpd(model)["type"] == "not_implemented"
    assert "ChunkBeamSearch" in dumpd(model)["repr"]
    assert not model.is_lc_serializable()
    assert "Llama" not in repr(model)
    assert set(model.model_dump()) & {"proposer", "scorer", "guide", "engine"} == set()
    assert model.model_dump()["strategy"]["width"] == 2


def test_tokens_are_counted_by_the_large_model(model: Any) -> None:
    encode = model.proposer.tokenizer.encode
    assert model.get_num_tokens(PROMPT) == len(encode(PROMPT)) != len(PROMPT.split())
    own = model.model_copy(update={"custom_get_token_ids": lambda text: [1, 2]})
    assert own.get_num_tokens(PROMPT) == 2
    long = [("human", "word " * 50), ("human", "short")]
    kept = trim_messages(long, max_tokens=40, token_counter=model, strategy="last")
    assert [message.content for message in kept] == ["short"]


# Failures and cancelling.


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
