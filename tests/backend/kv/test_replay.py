"""Recorded decode steps give what running them gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.recording import CPU, Recorder
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    ConfigError,
    EmulatedFineTuning,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Model,
    SearchStrategy,
    TokenSearch,
    UnsupportedModelError,
)
from w2s_chains.backend.kv.batch import Batch
from w2s_chains.backend.kv.replay import Run
from w2s_chains.backend.lm.causal_lm import CausalLM

PROMPTS = ["a film", "another prompt, which is longer", "x"]
STRATEGIES = [
    ChunkBeamSearch(width=4, successors=3, chunk_tokens=5),
    TokenSearch(candidates=6, tau=0.5, distinct=True),
    EmulatedFineTuning(draft_tokens=3),
]


def answers(
    strategy: SearchStrategy, prompts: Sequence[str], recorder: Recorder | None, tokens: int = 16
) -> list[str]:
    models = [tiny.llama(320, seed, num_hidden_layers=1) for seed in range(3)]
    proposer = HuggingFaceProposer(models[0], tiny.byte_tokenizer())
    guides = [HuggingFaceGuide(model, tiny.byte_tokenizer()) for model in models[1:]]
    if recorder is not None:
        for part in (proposer, *guides):
            part.lm.record(recorder, CPU)
    llm = W2SLLM(
        proposer=proposer,
        guides=GuidePair(*guides),
        strategy=strategy,
        max_tokens=tokens,
        seed=0,
        engine=Engine(),
    )
    return [own[0].text for own in llm.generate([*prompts]).generations]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda own: f"{own.type}-{own.branches}")
def test_answers_are_those_of_steps_that_are_not_recorded(strategy: SearchStrategy) -> None:
    recorder = Recorder()
    assert answers(strategy, PROMPTS, recorder) == answers(strategy, PROMPTS, None)
    assert recorder.repeated > recorder.recorded > 0


def test_a_text_longer_than_its_frame_goes_on_in_another() -> None:
    strategy = ChunkBeamSearch(width=1, successors=2, chunk_tokens=1)
    recorder = Recorder()
    assert answers(strategy, ["a"], recorder, 80) == answers(strategy, ["a"], None, 80)


@pytest.mark.parametrize("part", ["positions", "next_columns", "float_mask"])
def test_what_differs_from_step_to_step_lies_in_tensors(part: str) -> None:
    """Control: a step that goes on with the first one's positions, columns or mask is refused."""
    lm = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer()).lm
    first: dict[tuple[Any, ...], Any] = {}
    original = getattr(Batch, part)

    def stale(self: Batch, *args: Any) -> Any:
        own = original(self, *args)
        return first.setdefault((*args, own.shape), own)

    with mock.patch.object(Batch, part, stale), pytest.raises(UnsupportedModelError):
        lm.record(Recorder(), CPU)


def test_a_recording_that_does_nothing_is_refused() -> None:
    def nothing(run: Run) -> Run:
        return lambda: None

    lm = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer()).lm
    with pytest.raises(UnsupportedModelError, match="cuda_graphs"):
        lm.record(nothing, CPU)


def test_a_model_that_waits_for_the_device_is_refused() -> None:
    def capture(run: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")

    lm = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer()).lm
    with pytest.raises(UnsupportedModelError, match="its code waits for the device"):
        lm.record(capture, CPU)


def test_a_model_that_counts_positions_itself_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="leave cuda_graphs out"):
        CausalLM(tiny.bloom(320)).record(Recorder(), CPU)


def test_cuda_graphs_need_a_gpu() -> None:
    with pytest.raises(UnsupportedModelError, match=r"cuda_graphs needs a model on one GPU.*cpu"):
        HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), cuda_graphs=True)


def test_adapters_are_not_recorded() -> None:
    with pytest.raises(ConfigError, match="'mine' is one; merge it"):
        Model("embedded:smollm2-135m-instruct", adapter="mine", cuda_graphs=True)


@torch.inference_mode()
def test_memory_is_used_again() -> None:
    lm = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer()).lm
    lm.record(Recorder(), CPU)
    frames = lm.memory.frames
    assert frames is not None
    places: set[int] = set()
    for rows in (3, 4, 3, 4):
        batches = [lm.gather([(None, 0)] * rows, width=1, steps=5) for _ in range(2)]
        for batch in batches:
            assert batch.frame is not None
            assert (batch.frame.rows, batch.frame.columns) == (4, 64)
        both = {batch.kv[0][0].data_ptr() for batch in batches}
        assert len(both) == 2, "one batch does not write over another"
        places |= both
        del batch, batches
    assert len(places) == 2
