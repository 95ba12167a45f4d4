"""A batch whose rows are the next paths goes on; any other paths are gathered anew."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from w2s_chains.backend.kv.batch import Batch, Path
from w2s_chains.backend.kv.masks import Window
from w2s_chains.backend.kv.memory import Memory
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.reading import Reading, read

PROMPTS = ((5, 6, 7, 8, 9), (11, 12, 13), (20, 21, 22))


@pytest.fixture
def lm() -> CausalLM:
    return CausalLM(tiny.llama(320))


def prompts(lm: CausalLM, texts: Sequence[Sequence[int]] = PROMPTS) -> list[Segment]:
    roots = [Segment(None, 0, ids) for ids in texts]
    read(lm, [Reading(segment=root, scored=False) for root in roots])
    return roots


@torch.inference_mode()
def step(lm: CausalLM, parents: Sequence[Segment], width: int = 1) -> tuple[Batch, torch.Tensor]:
    """Read the last token of each path; each gets the children that continue it by a token."""
    batch = lm.gather([(own, own.end - 1) for own in parents], width=width, steps=1)
    logits = lm.forward(batch, torch.tensor([[own.ids[-1]] for own in parents]))
    return batch, logits[:, 0]


def children(batch: Batch, parents: Sequence[Segment], tokens: Sequence[int]) -> list[Segment]:
    """The first branch of each row, kept."""
    own = [Segment(p, p.end, [token]) for p, token in zip(parents, tokens, strict=True)]
    with torch.inference_mode():
        batch.keep([(segment, row, 0, 1) for row, segment in enumerate(own)])
    return own


def plain(lm: CausalLM, segment: Segment) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=torch.tensor([segment.path_ids()])).logits[0, -1].float()


@pytest.mark.parametrize("width", [1, 4])
def test_a_batch_goes_on_and_gives_the_logits_of_a_plain_forward(lm: CausalLM, width: int) -> None:
    paths = prompts(lm)
    batches: list[Batch] = []
    for token in range(40, 70):
        batch, logits = step(lm, paths, width)
        for own, row in zip(paths, logits, strict=True):
            expected = plain(lm, own)
            assert torch.allclose(row, expected, atol=1e-3 * expected.abs().max().item())
        if batch not in batches:
            batches.append(batch)
        paths = children(batch, paths, [token, token + 1, token + 2])
    assert len(batches) < 4, "it goes on, but for a lack of room"


OTHERS = {
    "a row less": lambda paths, older: paths[:2],
    "another order": lambda paths, older: paths[::-1],
    "two of one length exchanged": lambda paths, older: [paths[0], paths[2], paths[1]],
    "a row twice": lambda paths, older: [paths[0], paths[0], paths[2]],
    "a row more": lambda paths, older: [*paths, paths[0]],
    "the parents again": lambda paths, older: older,
}


@pytest.mark.parametrize("others", OTHERS)
def test_other_rows_are_gathered_anew(lm: CausalLM, others: str) -> None:
    older = prompts(lm)
    batch, _ = step(lm, older)
    paths = children(batch, older, [40, 41, 42])
    wanted = OTHERS[others](paths, older)
    again, logits = step(lm, wanted)
    assert again is not batch
    for own, row in zip(wanted, logits, strict=True):
        expected = plain(lm, own)
        assert torch.allclose(row, expected, atol=1e-3 * expected.abs().max().item())


def test_a_path_that_goes_on_twice_is_itself_both_times(lm: CausalLM) -> None:
    """The second time the batch has gone on without it."""
    older = prompts(lm)
    batch, _ = step(lm, older)
    paths = children(batch, older, [40, 41, 42])
    first, logits = step(lm, paths)
    children(first, paths, [50, 51, 52])
    second, again = step(lm, paths)
    assert first is batch
    assert second is not batch
    assert torch.allclose(logits, again, atol=1e-4)


def test_a_batch_goes_with_the_paths_that_could_go_on_in_it(lm: CausalLM) -> None:
    gc.collect()
    gc.disable()
    try:
        older = prompts(lm)
        batch, _ = step(lm, older)
        paths = children(batch, older, [40, 41, 42])
        alive = weakref.ref(batch)
        del batch, older
        assert alive() is not None
        paths.pop()
        assert alive() is not None
        paths.clear()
        assert alive() is None
    finally:
        gc.enable()


def test_a_batch_goes_before_another_takes_over_its_rows(lm: CausalLM) -> None:
    older = prompts(lm)
    batch, _ = step(lm, older)
    paths = children(batch, older, [40, 41, 42])
    alive = weakref.ref(batch)
    del batch
    step(lm, older)
    assert alive() is not None, "control: other rows leave it"
    step(lm, paths[:2])
    assert alive() is None


def test_no_more_than_two_batches_are_held(lm: CausalLM) -> None:
    kept: list[list[Segment]] = []
    alive: list[weakref.ref[Batch]] = []
    older = prompts(lm)
    for _ in range(5):
        batch, _ = step(lm, older)
        kept.append(children(batch, older, [40, 41, 42]))
        alive.append(weakref.ref(batch))
        del batch
    assert [ref() is not None for ref in alive] == [False, False, False, True, True]


def test_siblings_share_the_slot_of_their_first_column(lm: CausalLM) -> None:
    [parent] = prompts(lm, PROMPTS[:1])
    batch = lm.gather([(parent, parent.end - 1)], width=3, steps=2)
    own = [Segment(parent, parent.end, [token, 60]) for token in (40, 41, 42)]
    with torch.inference_mode():
        lm.forward(batch, torch.tensor([[parent.ids[-1]]]))
        lm.forward(batch, torch.tensor([[40, 41, 42]]))
        store = batch._store
        used = store.used
        batch.keep([(segment, 0, branch, 2) for branch, segment in enumerate(own)])
    assert store.used - used == 1 + 3
    assert [segment.tip for segment in own] == [None] * 3, "branches lie between each other"
    for segment in own:
        _, logits = step(lm, [segment])
        expected = plain(lm, segment)
        assert torch.allclose(logits[0], expected, atol=1e-3 * expected.abs().max().item())
    del own[1], segment
    assert store.used - used == 1 + 2


def test_a_path_of_many_segments_is_gathered_by_one_copy_per_plane(
    lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    path: list[Segment] = prompts(lm, PROMPTS[:1])
    for token in range(40, 60):
        batch, _ = step(lm, path)
        path = children(batch, path, [token])
    copies = 0
    select: Any = torch.Tensor.index_select

    def counted(*args: object) -> torch.Tensor:
        nonlocal copies
        copies += 1
        return select(*args)

    monkeypatch.setattr(torch.Tensor, "index_select", counted)
    memory = Memory(lm.memory.planes)
    memory._store = lm.memory._store
    wanted: list[Path] = [(path[0], path[0].end - 1)]
    memory.gather(
        wanted, width=1, steps=1, adapters=[None], limit=None, device=lm.device, dtype=lm.dtype
    )
    assert copies == 2 * len(lm.memory.planes)


def test_a_column_sees_its_branch_as_far_as_each_window_reaches() -> None:
    """Row 1 is padded by three columns; four steps of two branches, of which two are read."""
    lm = CausalLM(tiny.llama(320))
    lm.memory.windows = {
        "all": Window(), "three": Window(3), "chunks": Window(3, chunked=True),
    }  # fmt: skip
    long, short = prompts(lm, [range(5, 13), range(5, 10)])
    batch = lm.gather([(long, 7), (short, 4)], width=2, steps=5)
    batch.filled += 1 + 2
    masks = batch.added_masks(4, batch.filled + 4)
    assert masks.keys() == lm.memory.windows.keys()
    columns = [("past", i) for i in range(8)]
    columns += [(branch, 8 + step) for step in range(3) for branch in "ab"]
    for kind, window in lm.memory.windows.items():
        for row, upto in enumerate((7, 4)):
            for asking, (own, here) in enumerate(columns[-4:], len(columns) - 4):
                for seen, (other, there) in enumerate(columns):
                    at, to = there - (7 - upto), here - (7 - upto)
                    near = window.length is None or (
                        at // 3 == to // 3 if window.chunked else to - at < 3
                    )
                    free = near and at >= 0 and other in ("past", own) and seen <= asking
                    found = masks[kind][row, 0, asking - len(columns) + 4, seen].item()
                    assert (found == 0) is free, (kind, row, asking, seen)
    assert batch.positions(4)[1].tolist() == [5 + 1, 5 + 1, 5 + 2, 5 + 2]
