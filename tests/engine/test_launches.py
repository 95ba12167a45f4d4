"""What a tick costs beside the models: operations on the device, and waits for it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    SearchStrategy,
    TokenSearch,
)
from w2s_chains.backend.lm import logits
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.sampling import chunks

WAITS = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal")


class Launches(TorchDispatchMode):
    """Counts what a GPU would launch outside the models: all that is neither a view nor empty."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.waits = 0
        self.paused = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self.paused:
            name = func._schema.name
            self.waits += name in WAITS
            self.count += not (
                name.startswith(("aten::empty", "aten::new_empty")) or _view(func, args, out)
            )
        return out

    @contextmanager
    def pause(self) -> Generator[None]:
        self.paused = True
        try:
            yield
        finally:
            self.paused = False


def _view(func: Any, args: tuple[Any, ...], out: Any) -> bool:
    first = args[0] if args else None
    outs = out if isinstance(out, (list, tuple)) else [out]
    return (
        isinstance(first, Tensor)
        and not func._schema.is_mutable
        and all(
            isinstance(own, Tensor)
            and own.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            for own in outs
        )
    )


def run(
    monkeypatch: pytest.MonkeyPatch, strategy: SearchStrategy, prompts: int, tokens: int
) -> tuple[list[int], int, int]:
    """Launches of each tick outside the models; waits for the device, and calls of the models."""
    launches = Launches()
    ticks: list[int] = []
    calls = 0
    tick, lists, chosen = Engine._tick, logits.to_lists, logits.read_chosen

    def counted(self: Engine, *args: Any) -> None:
        before = launches.count
        with launches:
            tick(self, *args)
        ticks.append(launches.count - before)

    def watched(lm: CausalLM) -> CausalLM:
        forward = lm.model.forward

        def outside(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            with launches.pause():
                return forward(*args, **options)

        monkeypatch.setattr(lm.model, "forward", outside)
        return lm

    def waiting(read: Any) -> Any:
        def own(*args: Any) -> Any:
            launches.waits += 1
            with launches.pause():
                return read(*args)

        return own

    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    guides = [HuggingFaceGuide(tiny.llama(320, seed), tiny.byte_tokenizer()) for seed in (1, 2)]
    for part in (proposer, *guides):
        watched(part.lm).token_budget = 2**30  # all prompts share a batch
    monkeypatch.setattr(logits, "_TILE", 2**40)  # as on a GPU, whose tables are not cut
    monkeypatch.setattr(chunks, "_may_look", lambda device, step: step % 16 == 15)
    monkeypatch.setattr(chunks, "read_chosen", waiting(chosen))
    monkeypatch.setattr("w2s_chains.backend.lm.reading.to_lists", waiting(lists))
    monkeypatch.setattr(Engine, "_tick", counted)
    llm = W2SLLM(
        proposer=proposer,
        guides=GuidePair(*guides),
        strategy=strategy,
        max_tokens=tokens,
        seed=0,
        engine=Engine(),
    )
    llm.generate([f"prompt {i} " * (i % 3 + 1) for i in range(prompts)])
    return ticks, launches.waits, calls


@pytest.mark.parametrize("prompts", [1, 8, 32])
@pytest.mark.parametrize(
    ("strategy", "tokens"),
    [
        (ChunkBeamSearch(width=4, successors=4, chunk_tokens=5), 60),
        (ChunkBeamSearch(width=2, successors=4, chunk_tokens=1), 16),
        (TokenSearch(candidates=8, tau=0.5, distinct=True), 16),
    ],
    ids=["4,4,5", "2,4,1", "tokens"],
)
def test_a_tick_launches_few_operations_however_deep_the_tree(
    monkeypatch: pytest.MonkeyPatch, strategy: SearchStrategy, tokens: int, prompts: int
) -> None:
    ticks, waits, calls = run(monkeypatch, strategy, prompts, tokens)
    assert max(ticks) <= 300 + 20 * prompts
    assert max(ticks[6:]) <= 1.1 * max(ticks[1:6]), "it does not grow with depth"
    assert waits <= calls
    assert min(calls, waits) > 0, "control: both are counted"
