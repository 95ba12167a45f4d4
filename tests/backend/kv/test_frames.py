"""Frames: which place a batch gets, and what is kept there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from w2s_chains.backend.kv import frames as module
from w2s_chains.backend.kv.frames import Frame, Frames, _Layer, rounded
from w2s_chains.backend.kv.store import Plane


def plane(*layers: int, heads: int = 2, key_dim: int = 3, value_dim: int = 4) -> Plane:
    return Plane(
        layers=layers, heads=heads, key_dim=key_dim, value_dim=value_dim, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip


class Owner:
    """Somebody who has a frame as long as it lives."""


def place(frame: Frame) -> int:
    return frame.kv[0][0].data_ptr()


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (1, 1, (1, 64)),
        (2, 64, (2, 64)),
        (3, 65, (4, 128)),
        (5, 1024, (8, 1024)),
        (8, 1025, (8, 1280)),
        (9, 1280, (16, 1280)),
    ],
)
def test_sizes_are_rounded_up(rows: int, columns: int, expected: tuple[int, int]) -> None:
    assert rounded(rows, columns) == expected


def test_who_lives_keeps_its_memory() -> None:
    frames, first, second = Frames([plane(0)]), Owner(), Owner()
    a, b = frames.take(first, 1, 64), frames.take(second, 1, 64)
    assert place(a) != place(b)
    kept = a.kv[0][0]
    del first
    third = Owner()
    assert frames.take(third, 1, 64) is a, "with what was recorded on it"
    del second
    fourth = Owner()
    assert frames.take(fourth, 1, 64) is b
    assert a.kv[0][0] is kept


def test_the_smallest_memory_that_is_large_enough_is_taken() -> None:
    frames, owners = Frames([plane(0)]), [Owner() for _ in range(4)]
    sizes = [4, 1, 8, 2]
    taken = [frames.take(own, rows, 64) for own, rows in zip(owners, sizes, strict=True)]
    places = dict(zip(sizes, map(place, taken), strict=True))
    owners.clear()
    for rows, wanted in ((2, 2), (2, 4), (1, 1), (3, 8)):
        owners.append(Owner())
        assert place(frames.take(owners[-1], rows, 64)) == places[wanted]


def test_memory_that_is_too_small_is_taken_anew_and_holds_smaller_batches_too() -> None:
    frames, owner = Frames([plane(0)]), Owner()
    small = frames.take(owner, 1, 64)
    owner = Owner()
    large = frames.take(owner, 2, 128)
    assert (large.rows, large.columns) == (2, 128)
    assert large.kv[0][0].shape == (1, 2, 2, 128, 3)
    layers: list[Any] = large.cache(torch.tensor([0])).layers
    [layer] = layers
    assert layer.get_seq_length() == 128
    owner = Owner()
    again = frames.take(owner, 1, 64)
    assert again is not small, "what was recorded there is gone"
    assert place(again) == place(large), "one memory, not two"
    owner = Owner()
    assert frames.take(owner, 2, 128) is large


def test_a_place_for_which_there_was_no_memory_is_not_taken_for_one() -> None:
    class Full:
        """A device on which nothing more fits."""

        def empty(self, *shape: int) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory (for the test)")

    planes: list[Any] = [plane(0)]
    frames, owner = Frames(planes), Owner()
    small = frames.take(owner, 1, 64)
    planes.append(Full())
    owner = Owner()
    with pytest.raises(torch.OutOfMemoryError):
        frames.take(owner, 8, 64)
    del planes[1]
    owner = Owner()
    again = frames.take(owner, 4, 64)
    assert [tuple(own.shape) for own in again.kv[0]] == [(1, 2, 4, 64, 3), (1, 2, 4, 64, 4)]
    assert again is not small


def test_frames_that_were_not_used_for_long_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_FRAMES", 2)
    frames = Frames([plane(0)])

    def take(columns: int) -> Frame:
        return frames.take(Owner(), 1, columns)

    wide, narrow = take(192), take(64)
    assert (take(192), take(64), take(192)) == (wide, narrow, wide), "control: there is room"
    other = take(128)
    assert take(192) is wide
    assert take(128) is other
    assert take(64) is not narrow


def test_a_frame_is_memory_seen_as_rows_and_columns() -> None:
    planes = [plane(2, 0), plane(1, heads=1, key_dim=5, value_dim=6)]
    frame = Frame(planes, [own.zeros(10) for own in planes], 2, 4)
    shapes = [[tuple(own.shape) for own in both] for both in frame.kv]
    assert shapes == [
        [(2, 2, 2, 4, 3), (2, 2, 2, 4, 4)],
        [(1, 1, 2, 4, 5), (1, 1, 2, 4, 6)],
    ]
    assert frame.recorded == {}


def test_each_layer_writes_where_a_tensor_says_and_reads_all() -> None:
    planes = [plane(2, 0), plane(1, heads=1, key_dim=5, value_dim=6)]
    frame = Frame(planes, [own.zeros(8) for own in planes], 2, 4)
    where = torch.tensor([1, 3])
    cache: Any = frame.cache(where)
    for layer, (own, i) in enumerate(((0, 1), (1, 0), (0, 0))):
        keys, values = (kv[i].transpose(0, 1) for kv in frame.kv[own])  # [B, H, columns, D]
        new = [torch.rand_like(kv[:, :, :2]) for kv in (keys, values)]
        found = cache.update(*new, layer)
        for given, kv, its in zip(found, (keys, values), new, strict=True):
            assert given.data_ptr() == kv.data_ptr(), "at the frame's own place"
            assert torch.equal(given[:, :, [1, 3]], its)
            assert not given[:, :, [0, 2]].any()
        assert cache.get_seq_length(layer) == 4
        assert cache.get_mask_sizes(1, layer) == (4, 0)
    where.copy_(torch.tensor([0, 2]))
    cache.update(*new, 2)
    assert torch.equal(keys[:, :, [0, 2]], new[0]), "the tensor is read anew each time"


def test_a_layer_of_fixed_memory_has_no_bound_of_its_own() -> None:
    keys, values = torch.zeros(1, 2, 3, 4), torch.ones(1, 2, 3, 4)
    layer = _Layer(keys, values, torch.tensor([0]))
    assert layer.keys is layer.own[0] is keys
    assert layer.values is layer.own[1] is values
    assert layer.is_initialized
    assert not layer.is_sliding
    assert layer.get_max_length() == -1
