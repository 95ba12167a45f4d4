"""Recorded decode steps give what running them gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import Cache

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
from w2s_chains.backend.kv.frames import Frames
from w2s_chains.backend.kv.masks import Mask
from w2s_chains.backend.kv.replay import Replays, Run
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.reading import Reading, read

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


@torch.inference_mode()
def test_a_step_is_run_then_recorded_then_repeated() -> None:
    """On one frame for batches of different texts, each length of a step once."""
    lm, recorder = CausalLM(tiny.llama(320, num_hidden_layers=1)), Recorder()
    roots = [Segment(None, 0, ids) for ids in ((5, 6, 7, 8), (9, 10), (11, 12, 13), (14, 15))]
    read(lm, [Reading(segment=root, scored=False) for root in roots])
    frames, replays = Frames(lm.memory.planes), Replays(lm.device, recorder)

    def begin(own: list[Segment], place: Frames | None) -> Batch:
        lm.memory.frames = place
        return lm.gather([(root, root.end - 1) for root in own], width=1, steps=6)

    torch.manual_seed(0)
    for own in (roots[:3], roots[1:], [roots[2], roots[0], roots[3], roots[1]]):
        batch, plain = begin(own, frames), begin(own, None)
        for count in (1, 2, 1, 2, 1):
            ids = torch.randint(5, 300, (len(own), count))
            found = replays.read(lm._logits, batch, ids)
            batch.filled += count
            assert found is not None
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, lm.forward(plain, ids), atol=1e-4, rtol=1e-4)
        assert replays.read(lm._logits, plain, ids) is None, "it has no place of its own"
        frame = batch.frame
        assert frame is not None
        assert set(frame.recorded) == {1, 2}
        del batch, plain
    # Of fifteen steps each length ran once unrecorded; what has run is repeated as well.
    assert (recorder.recorded, recorder.repeated) == (2, 13)


@torch.inference_mode()
def test_long_steps_and_those_beyond_the_frame_are_not_recorded() -> None:
    model: Any = tiny.llama(320, num_hidden_layers=1)
    lm = CausalLM(model.to(torch.bfloat16))
    lm.memory.frames = Frames(lm.memory.planes)
    replays = Replays(lm.device, Recorder())
    batch = lm.gather([(None, 0)], width=1, steps=40)
    assert batch.frame is not None
    assert batch.frame.columns == 64

    def forward(ids: Tensor, positions: Tensor, mask: Mask, cache: Cache) -> Tensor:
        assert isinstance(mask, Tensor)
        assert mask.dtype == torch.bfloat16
        return torch.zeros(*ids.shape, 5)

    def is_read(count: int) -> bool:
        return replays.read(forward, batch, torch.full((1, count), 7)) is not None

    assert [is_read(count) for count in (32, 33)] == [True, False]
    batch.filled = 62
    assert [is_read(count) for count in (2, 3)] == [True, False]


def test_recordings_share_the_room_for_their_logits() -> None:
    replays = Replays(CPU, Recorder())
    large = replays.room(2, 3, 4)
    assert (large.shape, large.dtype) == ((2, 3, 4), torch.float32)
    small = replays.room(2, 1, 5)
    assert small.shape == (2, 1, 5)
    assert small.data_ptr() == large.data_ptr() == replays.room(4, 3, 2).data_ptr()
    assert replays.room(5, 5, 1).shape == (5, 5, 1)


def test_a_recording_for_which_there_was_no_memory_is_made_later() -> None:
    lm, recorder, full = CausalLM(tiny.llama(320, num_hidden_layers=1)), Recorder(), [True]
    lm.memory.frames = Frames(lm.memory.planes)

    def record(run: Run) -> Run:
        if full.pop():
            raise torch.OutOfMemoryError("CUDA out of memory (for the test)")
        return recorder(run)

    replays = Replays(lm.device, record)
    batch, ids = lm.gather([(None, 0)], width=1, steps=9), torch.tensor([[7]])

    def forward(ids: Tensor, positions: Tensor, mask: Mask, cache: Cache) -> Tensor:
        return torch.ones(*ids.shape, 5)

    assert replays.read(forward, batch, ids) is not None
    with pytest.raises(torch.OutOfMemoryError):
        replays.read(forward, batch, ids)
    full.append(False)
    found = replays.read(forward, batch, ids)
    assert found is not None
    assert found.tolist() == [[[1.0] * 5]]
