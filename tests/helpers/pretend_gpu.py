"""A model's work on a device that only pretends: run as a program, since torch keeps the device.

    python -m tests.helpers.pretend_gpu

Torch's fake tensors know their device and have no data, and an operation on tensors of two devices
raises, as it would on a GPU. Here a GPU is a backend written in Python, since a CPU build of torch
cannot even index fake tensors on "cuda". What the host reads is replaced by zeros. Prints one line
per case: its name, and "done" or the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration
from transformers import LlamaConfig, LlamaForCausalLM

from w2s_chains.backend.kv.batch import Batch
from w2s_chains.backend.kv.frames import Frames
from w2s_chains.backend.kv.replay import Replays
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm import causal_lm, reading
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.reading import Reading, read
from w2s_chains.backend.sampling import chunks, speculative
from w2s_chains.backend.sampling.chunks import sample
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.speculative import speculate
from w2s_chains.core.asks import Until
from w2s_chains.core.sampling import SamplingParams

END = 319
SAMPLING = [
    SamplingParams(),
    SamplingParams(top_p=0.9, top_k=20, min_p=0.05, repetition_penalty=1.2, temperature=0.5),
    SamplingParams(temperature=0.0),
]


def zeros(*shape: int) -> Any:
    return [zeros(*shape[1:]) for _ in range(shape[0])] if shape else 0


def read_chosen(ids: Sequence[Tensor], tables: Sequence[Tensor]) -> tuple[Any, Any]:
    assert {own.device.type for own in (*ids, *tables)} == {"pretend"}
    steps, (numbers, rows) = len(ids), tables[0].shape
    return zeros(rows, steps), zeros(numbers, rows, steps)


def model(gpu: torch.device) -> CausalLM:
    config = LlamaConfig(
        vocab_size=END + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    with torch.device("meta"):
        empty = LlamaForCausalLM(config)
    for module in empty.modules():
        for name, own in module._parameters.items():
            if own is not None:
                module._parameters[name] = nn.Parameter(torch.empty_like(own, device=gpu))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device=gpu)
    return CausalLM(empty)


def prompts(lm: CausalLM) -> list[Segment]:
    """Two prompts of different lengths, read."""
    segments = [Segment(None, 0, range(1, 6)), Segment(None, 0, range(1, 12))]
    read(lm, [Reading(segment=segment, scored=False) for segment in segments])
    return segments


def draw(*parents: Segment, place: int, **options: Any) -> Draw:
    given: dict[str, Any] = {"steps": 4, "sampling": SAMPLING[0], "n_tokens": 0, **options}
    return Draw(parents=parents, place=(0, place), **given)


def search(gpu: torch.device, recorded: bool = False) -> None:
    """Read prompts, sample chunks and candidates, score texts."""
    lm = model(gpu)
    if recorded:
        lm.memory.frames = Frames(lm.memory.planes)
        lm.replays = Replays(lm.device, lambda run: run)
    roots = prompts(lm)
    chunks_of = [
        draw(parent, place=i, sampling=sampling, until=Until(entropy=50.0))
        for sampling in SAMPLING
        for parent in roots
        for i in range(3)
    ]
    children = [one.segments[0] for one in sample([lm], chunks_of, [END])]
    ranked = [
        draw(parent, place=i, steps=1, rank=i, parent_place=(0, 0))
        for parent in children
        for i in range(3)
    ]
    after = [one.segments[0] for one in sample([lm], ranked, [END])]
    texts = [Segment(parent, parent.end, range(5)) for parent in after[:4] for _ in range(2)]
    ended = Reading(segment=Segment(roots[0], 5, [7]), scored=True, end_id=END)
    read(lm, [*(Reading(segment=own, scored=True) for own in texts), ended])
    assert all(len(own.logprobs) == 5 for own in texts)


def steering(gpu: torch.device) -> None:
    """Sample with guides, token by token and with drafts."""
    models = [model(gpu) for _ in range(3)]
    parents = [prompts(lm)[1] for lm in models]
    draws = [
        draw(*parents, place=i, sampling=sampling, weights=(1.0, -1.0))
        for i, sampling in enumerate(SAMPLING)
    ]
    assert len(sample(models, draws, [END])) == len(speculate(models, draws, [END])) == 3


def on_the_host(part: str) -> Callable[[torch.device], None]:
    """Control: what a batch hands to its model lies on the CPU."""
    original = getattr(Batch, part)

    def case(gpu: torch.device) -> None:
        with mock.patch.object(Batch, part, lambda *args: original(*args).cpu()):
            search(gpu)

    return case


CASES: dict[str, Callable[[torch.device], None]] = {
    "search": search,
    "recorded": lambda gpu: search(gpu, recorded=True),
    "steering": steering,
    "positions on the host": on_the_host("positions"),
    "mask on the host": on_the_host("float_mask"),
}


def main() -> None:
    backend_registration._setup_privateuseone_for_python_backend("pretend")
    gpu = torch.device("pretend:0")
    made = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        # Torch makes it on the device itself, and works on known numbers as they are; a backend in
        # Python can do neither.
        made_here: Any = made(data, **options)
        made_here.constant = None
        return made_here.to(device or "cpu")

    def chosen(table: Tensor) -> Any:
        return zeros(*table.shape)

    pretending = FakeTensorMode()  # one for all, since the package keeps some tensors
    for name, case in CASES.items():
        with (
            mock.patch.object(torch, "tensor", tensor),
            mock.patch.object(causal_lm, "check_exact", return_value=True),
            mock.patch.object(reading, "to_lists", chosen),
            mock.patch.object(speculative, "to_lists", lambda table: [1] * len(table)),
            mock.patch.object(speculative, "read_chosen", read_chosen),
            mock.patch.object(chunks, "read_chosen", read_chosen),
            pretending,
        ):
            try:
                case(gpu)
                told = "done"
            except Exception as error:
                told = f"{type(error).__name__}: {error}".replace("\n", " ")[:300]
        print(f"{name}: {told}", flush=True)


if __name__ == "__main__":
    main()
