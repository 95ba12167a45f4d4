"""``Frames``: memory of batches that does not move, so that work on it can be recorded once.

A CUDA graph repeats the same operations on the same memory. So batches whose rows and columns are
rounded up to the same numbers lie at the same place. A frame is such a place: a view of an arena,
which belongs to one batch at a time.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from w2s_chains.backend.kv.layers import FixedLayer
from w2s_chains.backend.kv.store import KV, Plane

_FINE, _COARSE = 64, 256
"""Columns are rounded up to multiples of these, below and above ``_SHORT``."""
_SHORT = 1024
_MOST_FRAMES = 32
"""Most frames of an arena, and so of recordings, each of which holds memory of its own."""


class _Layer(FixedLayer):
    """Writes the columns that a tensor names, returns all of them."""

    def __init__(self, keys: Tensor, values: Tensor, where: Tensor) -> None:
        super().__init__(keys, values)
        self._where = where

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        for own, states in zip(self.own, (key_states, value_states), strict=True):
            own.index_copy_(2, self._where, states)
        return self.own

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        return self.own[0].shape[2]


class Frame:
    """Keys and values of a batch, at a place of their own.

    Attributes:
        rows: Rows that there is room for.
        columns: Columns that there is room for.
        kv: Per plane [layers, heads, rows, columns, dim].
        recorded: What was recorded on this frame, by the number of columns that it reads.
    """

    def __init__(
        self, planes: Sequence[Plane], flat: Sequence[KV], rows: int, columns: int
    ) -> None:
        self.rows, self.columns = rows, columns
        self.recorded: dict[int, Any] = {}
        self._planes = planes
        self.kv: list[KV] = []
        for both in flat:
            keys, values = (
                own[:, :, : rows * columns].view(*own.shape[:2], rows, columns, own.shape[3])
                for own in both
            )
            self.kv.append((keys, values))

    def cache(self, where: Tensor) -> Cache:
        """Return the cache for a forward that reads the columns in ``where``."""
        layers: dict[int, _Layer] = {}
        for plane, (keys, values) in zip(self._planes, self.kv, strict=True):
            for i, layer in enumerate(plane.layers):
                own = keys[i].transpose(0, 1), values[i].transpose(0, 1)
                layers[layer] = _Layer(*own, where)
        return Cache(layers=[layers[i] for i in sorted(layers)])


class _Arena:
    """Memory that one batch after another uses, and its frames."""

    def __init__(self) -> None:
        self.flat: list[KV] = []  # [layers, heads, tokens, dim]
        self.frames: dict[tuple[int, int], Frame] = {}
        self.size = 0
        self.owner: weakref.ref[object] | None = None

    @property
    def free(self) -> bool:
        return self.owner is None or self.owner() is None


class Frames:
    """Finds a frame for each batch."""

    def __init__(self, planes: Sequence[Plane]) -> None:
        self._planes = planes
        self._arenas: list[_Arena] = []

    def take(self, owner: object, rows: int, columns: int) -> Frame:
        """Return a frame with room for these rows and columns.

        It belongs to ``owner`` as long as that lives.
        """
        rows, columns = rounded(rows, columns)
        free = [arena for arena in self._arenas if arena.free]
        large = [arena for arena in free if arena.size >= rows * columns]
        arena = min(large, key=lambda own: own.size) if large else free[0] if free else _Arena()
        if arena not in self._arenas:
            self._arenas.append(arena)
        if arena.size < rows * columns:
            arena.frames.clear()
            arena.flat.clear()  # before more memory is taken, which may fail
            arena.size = 0
            arena.flat = [plane.empty(rows * columns) for plane in self._planes]
            arena.size = rows * columns
        arena.owner = weakref.ref(owner)
        # Used last, so dropped last.
        frame = arena.frames.pop((rows, columns), None)
        if frame is None:
            frame = Frame(self._planes, arena.flat, rows, columns)
        arena.frames[rows, columns] = frame
        if len(arena.frames) > _MOST_FRAMES:
            del arena.frames[next(iter(arena.frames))]
        return frame


def rounded(rows: int, columns: int) -> tuple[int, int]:
    """Return the size of the frame for a batch: rows to a power of two, columns to a multiple."""
    unit = _FINE if columns <= _SHORT else _COARSE
    return 1 << (rows - 1).bit_length(), -(-columns // unit) * unit
