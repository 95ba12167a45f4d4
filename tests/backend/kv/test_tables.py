"""The tables of a batch, drawn by hand: keys and values, positions and masks, without a model."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from w2s_chains.backend.kv.batch import _LEAST_ROOM, Batch
from w2s_chains.backend.kv.masks import Window
from w2s_chains.backend.kv.memory import Memory
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.kv.store import Plane, Store

CPU = torch.device("cpu")
PLANES = [
    Plane(layers=layers, heads=2, key_dim=3, value_dim=2, dtype=torch.float32, device=CPU)
    for layers in ((0, 2), (1,))
]


def stored(store: Store, length: int, name: int) -> Segment:
    """A path of so many tokens; the keys of position p are ``name + p``, the values less."""
    segment = Segment(None, 0, range(length + 1))
    [slots] = store.take([length])
    kv = [plane.zeros(1, length) for plane in PLANES]
    for keys, values in kv:
        keys += name + torch.arange(length)[:, None]
        values -= name + torch.arange(length)[:, None]
    store.put(slots.ids, kv, np.arange(length))
    segment.kv = (slots,)
    return segment


def batch_of(lengths: Sequence[int], **options: Any) -> Batch:
    store = Store(PLANES)
    paths = [(stored(store, n, 10 * i), n) for i, n in enumerate(lengths, 1)]
    how: dict[str, Any] = {
        "width": 1, "steps": 1, "adapters": [None] * len(paths), "limit": None, "device": CPU,
        "dtype": torch.float32, **options,
    }  # fmt: skip
    return Batch(store, paths, **how)


def asked(batch: Batch, count: int) -> torch.Tensor:
    """The mask of a model with one kind of layers."""
    mask = batch.attention_mask(count)
    assert isinstance(mask, torch.Tensor)
    return mask


def drawn(mask: torch.Tensor) -> list[list[str]]:
    """A float mask as text: x where the score stays, a dot where it is the lowest there is."""
    lowest = torch.finfo(mask.dtype).min
    assert mask.shape[1] == 1
    assert ((mask == 0) | (mask == lowest)).all()
    return [["".join("x."[int(v == lowest)] for v in row) for row in own[0]] for own in mask]


def test_paths_lie_side_by_side_aligned_at_their_ends() -> None:
    batch = batch_of([2, 3])
    for keys, values in batch.kv:
        assert keys[..., :3, :].unique(dim=-1).shape[-1] == 1, "control: one number a slot"
        assert keys[:, :, 0, :3, 0].unique(dim=0).tolist() == [[[0, 10, 11]] * 2]
        assert keys[:, :, 1, :3, 0].unique(dim=0).tolist() == [[[20, 21, 22]] * 2]
        assert values[:, :, 1, :3, 0].unique(dim=0).tolist() == [[[-20, -21, -22]] * 2]


def test_a_layer_writes_the_next_columns_and_returns_all() -> None:
    batch = batch_of([2, 3])
    new = torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 2)
    for layer in range(3):
        keys, values = batch.cache.update(*new, layer)
        assert keys[:, 0, :, 0].tolist() == [[0, 10, 11, 1], [20, 21, 22, 1]]
        assert values[:, 0, :, 0].tolist() == [[0, -10, -11, 1], [-20, -21, -22, 1]]
    assert batch.kv[0][0][1, 1, 0, :4, 2].tolist() == [0, 10, 11, 1], "in place"


def test_what_transformers_asks_a_cache() -> None:
    batch = batch_of([2, 3])
    cache: Any = batch.cache
    assert cache.is_initialized
    assert cache.is_sliding == [False] * 3
    assert [cache.get_seq_length(i) for i in range(3)] == [3] * 3
    assert cache.get_max_length() == -1, "none"
    assert cache.get_mask_sizes(2, 0) == (5, 0)


def test_without_branches_columns_are_positions() -> None:
    batch = batch_of([2, 3], steps=4)
    assert batch.positions(3).tolist() == [[2, 3, 4], [3, 4, 5]]
    assert asked(batch, 3).tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_branch_sees_its_past_the_shared_column_and_its_own(dtype: torch.dtype) -> None:
    batch = batch_of([2, 3], width=2, steps=3, dtype=dtype)
    assert batch.positions(1).tolist() == [[2], [3]]
    assert asked(batch, 1).tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    # Both branches' steps at once, as guides read given texts.
    assert batch.positions(5).tolist() == [[2, 3, 3, 4, 4], [3, 4, 4, 5, 5]]
    #      past|shared|A B|A B
    rows = ["xxxx....", "xxxxx...", "xxxx.x..", "xxxxx.x.", "xxxx.x.x"]
    mask = asked(batch, 5)
    assert mask.dtype == dtype
    assert drawn(mask) == [["." + row[1:] for row in rows], rows]
    # Step by step, as chunks are sampled.
    for begin, places in ((4, [3, 4]), (6, [4, 5])):
        batch.filled = begin
        assert batch.positions(2).tolist() == [[place] * 2 for place in places]
        own = [row[: begin + 2] for row in rows[begin - 3 : begin - 1]]
        assert drawn(asked(batch, 2)) == [["." + row[1:] for row in own], own]


def test_windows_count_the_tokens_of_a_branch_not_its_columns() -> None:
    kinds = {"all": Window(), "three": Window(3), "chunk": Window(4, chunked=True)}
    batch = batch_of([3, 2], width=2, steps=4, windows=kinds)
    batch.filled = batch.fork  # the shared column at position 3 or 2, then A B A B A B
    found = batch.attention_mask(6)
    assert isinstance(found, dict)
    assert list(found) == list(kinds)
    first, second = drawn(found["all"])
    assert first == [
        "xxxxx.....",
        "xxxx.x....",
        "xxxxx.x...",
        "xxxx.x.x..",
        "xxxxx.x.x.",
        "xxxx.x.x.x",
    ]
    assert second == ["." + row[1:] for row in first]
    three = [
        "..xxx.....",
        "..xx.x....",
        "...xx.x...",
        "...x.x.x..",
        "....x.x.x.",
        ".....x.x.x",
    ]
    assert drawn(found["three"]) == [three, three], "positions differ, distances do not"
    chunks = [
        [
            "....x.....",
            ".....x....",
            "....x.x...",
            ".....x.x..",
            "....x.x.x.",
            ".....x.x.x",
        ],
        [
            ".xxxx.....",
            ".xxx.x....",
            "......x...",
            ".......x..",
            "......x.x.",
            ".......x.x",
        ],
    ]
    assert drawn(found["chunk"]) == chunks


def test_one_kind_of_window_is_one_mask() -> None:
    batch = batch_of([3], width=2, steps=2, windows={"sliding": Window(2)})
    batch.filled = batch.fork
    assert drawn(asked(batch, 2)) == [["...xx.", "...x.x"]]


@pytest.mark.parametrize("width", [1, 2])
def test_padding_does_not_pass_the_last_position_of_the_model(width: int) -> None:
    """Rows with fewer steps than others: the last position is the limit less one."""
    batch = batch_of([1, 3], width=width, steps=3, limit=5)
    each = range(1 + 2 * width)
    free = [[past + (i + width - 1) // width for i in each] for past in (1, 3)]
    assert batch.positions(len(each)).tolist() == [[min(at, 4) for at in row] for row in free]
    enough = batch_of([1, 3], width=width, steps=3, limit=6)
    assert enough.positions(len(each)).tolist() == free
    assert max(free[1]) == 5, "control: one more than the smaller limit allows"


def test_branches_take_the_columns_that_they_need_and_no_more() -> None:
    """Only a batch that can go on has room for it."""
    wide = batch_of([2, 3], width=4, steps=3)
    assert wide.kv[0][0].shape[3] == 3 + 1 + 4 * 2
    for options in ({"width": 1, "steps": 3}, {"width": 4, "steps": 1}):
        assert batch_of([2, 3], **options).kv[0][0].shape[3] >= 3 + options["steps"] + 16


def test_a_batch_that_goes_on_keeps_to_the_limit() -> None:
    store = Store(PLANES)
    memory = Memory(PLANES)
    memory._store = weakref.ref(store)
    path = stored(store, 3, 10)
    how: dict[str, Any] = {"adapters": [None], "limit": 6, "device": CPU, "dtype": torch.float32}
    batch = memory.gather([(path, 3)], width=1, steps=1, **how)
    assert batch.positions(1).tolist() == [[3]]
    batch.filled += 1
    child = Segment(path, 4, [7])
    batch.keep([(child, 0, 0, 1)])
    assert memory.gather([(child, 4)], width=2, steps=3, **how) is batch
    assert batch.positions(5).tolist() == [[4, 5, 5, 5, 5]]
    alone = Memory(PLANES).gather([(None, 0)], width=1, steps=8, **how)
    assert alone.positions(8).tolist() == [[0, 1, 2, 3, 4, 5, 5, 5]]


def copied(ticks: int) -> list[int]:
    """Read so many tokens, each a child of the last; return how many tokens each copy had."""
    store = Store(PLANES)
    memory = Memory(PLANES)
    memory._store = weakref.ref(store)
    path, last, copies = stored(store, 1, 10), None, list[int]()
    for _ in range(ticks):
        batch = memory.gather(
            [(path, path.end - 1)], width=1, steps=1, adapters=[None], limit=None, device=CPU,
            dtype=torch.float32,
        )  # fmt: skip
        if batch is not last:
            copies.append(batch.past[0])
        batch.filled += 1
        path, last = Segment(path, path.end, [7]), batch
        batch.keep([(path, 0, 0, 1)])
    return copies


def test_a_growing_text_is_copied_ever_more_seldom() -> None:
    """With an eighth of the text to spare, 8 tokens are copied for each that is read."""
    assert sum(copied(600)) < 9 * 600


def test_room_is_used_up() -> None:
    first, second = copied(1 + _LEAST_ROOM + 1)
    assert second - first == 1 + _LEAST_ROOM
