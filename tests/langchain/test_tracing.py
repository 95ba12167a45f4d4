"""What callbacks and tracers are told by W2SLLM and ChatW2S alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.schemas import Run

from tests.helpers import tiny
from tests.helpers.llms import BEAM, PROMPT, PROMPTS, engine_threads, text
from tests.helpers.tracing import Traced, chunks_below
from w2s_chains import (
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    EmulatedFineTuning,
    HuggingFaceProposer,
    LogRatioScorer,
    Sampling,
)
from w2s_chains.langchain.tracing import ChunkRuns


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
        ignore_chain = True  # pyright: ignore[reportAssignmentType]

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
        events: list[Any] = [event async for event in chain.astream_events(PROMPT, version="v2")]
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
    async with asyncio.timeout(20):
        while len(tracer.roots) < 2:  # its run ends a little later
            await asyncio.sleep(0.001)
    assert len(chunks_below(tracer.roots[1])) == 3
