"""``Store``: the keys and values of a model in slots, one per token, where they never move.

A slot is free again when the last segment that refers to it goes, and a store goes with its last
segment; nothing is released by hand. Any free slot serves any token, so nothing is fragmented.
Where all layers of a model have windows, slots that no path sees any more are given back before a
store grows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Layers whose keys and values have the same shape, dtype and device, stored as one tensor.

    Attributes:
        indexer: Whether these are the keys by which layers choose what they attend to, which come
            beside their keys and values in another plane: one head, and values without numbers.
    """

    layers: tuple[int, ...]
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device
    indexer: bool = False

    @property
    def bytes_per_token(self) -> int:
        dims = self.key_dim + self.value_dim
        return len(self.layers) * self.heads * dims * self.dtype.itemsize

    def empty(self, *shape: int) -> KV:
        """Allocate keys and values: [layers, heads, *shape, dim]."""
        keys, values = (
            torch.empty(
                (len(self.layers), self.heads, *shape, dim), dtype=self.dtype, device=self.device
            )
            for dim in (self.key_dim, self.value_dim)
        )
        return keys, values

    def zeros(self, *shape: int) -> KV:
        """Allocate keys and values that are 0, like ``empty``."""
        keys, values = self.empty(*shape)
        return keys.zero_(), values.zero_()


KV = tuple[Tensor, Tensor]
"""Keys and values of one plane: [layers, heads, slots, dim], or [layers, heads, B, columns, dim]"""

Ints = NDArray[np.int64]


class Store:
    """Keys and values in slots, for all segments of a model; grows when no slot is free.

    Slot 0 holds zeros, which stand for padding: masked columns are multiplied by 0, and 0 * NaN is
    NaN.
    """

    __slots__ = (
        *("__weakref__", "_capacity", "_count", "_free", "_give_back", "_kv", "_returned"),
        *("planes", "users"),
    )

    def __init__(
        self,
        planes: Sequence[Plane],
        give_back: Callable[[Collection[Any]], None] | None = None,
    ) -> None:
        """Make an empty store.

        Args:
            planes: What it holds of each token.
            give_back: Called with all segments that refer to slots when none is free, before the
                store grows; it may let slots of theirs go.
        """
        self.planes = planes
        self._give_back = give_back
        self.users: WeakSet[Any] | None = None if give_back is None else WeakSet()
        self._kv = [plane.zeros(1) for plane in planes]
        self._free: Ints = np.empty(0, np.int64)  # the first ``_count`` of these are free
        self._count = 0
        self._capacity = 1
        # Slots come back on whatever thread drops them; appending is atomic.
        self._returned: deque[Ints] = deque()

    @property
    def capacity(self) -> int:
        """The number of slots, slot 0 included."""
        return self._capacity

    @property
    def used(self) -> int:
        """The number of slots in use."""
        self._collect()
        return self.capacity - 1 - self._count

    def take(self, counts: Sequence[int]) -> list[Slots]:
        """Reserve runs of slots of these lengths."""
        self._collect()
        total = wanted = sum(counts)
        if self._count < total and self._give_back and self.users is not None:
            self._give_back(self.users)
            self._collect()
            wanted += self.capacity // 4  # or the next call would look through all segments again
        if self._count < wanted:
            self._grow(total - self._count)
        self._count -= total
        taken = self._free[self._count : self._count + total].copy()
        ends = np.cumsum(counts).tolist()
        return [
            Slots(self, taken[end - count : end]) for count, end in zip(counts, ends, strict=True)
        ]

    def let_go(self, ids: Ints) -> None:
        """Take slots back, on any thread; they are free from the next ``take`` on."""
        self._returned.append(ids)

    def _collect(self) -> None:
        while self._returned:
            slots = self._returned.popleft()
            self._release(slots if self._give_back is None else slots[slots != 0])

    def _release(self, slots: Ints) -> None:
        self._free[self._count : self._count + len(slots)] = slots
        self._count += len(slots)

    def _grow(self, count: int) -> None:
        """Add at least ``count`` slots, and half as many as there are."""
        before = self.capacity
        size = before + max(count, before // 2, 256)
        # Plane by plane: while one is copied, the old and the new one are held. Planes that have
        # grown before memory ran out are large enough for the next try, which has fewer rows.
        for i, plane in enumerate(self.planes):
            if self._kv[i][0].shape[2] < size:
                larger = plane.empty(size)
                for old, new in zip(self._kv[i], larger, strict=True):
                    new[:, :, : old.shape[2]] = old
                self._kv[i] = larger
        self._free = np.concatenate((self._free[: self._count], np.empty(size, np.int64)))
        self._capacity = size
        self._release(np.arange(before, size))

    def gather(self, index: Ints, into: Sequence[KV] | None = None) -> list[KV]:
        """Copy the slots of a table [B, columns]: [layers, heads, B, columns, dim] per plane.

        Args:
            index: The slots; 0 gives zeros.
            into: Where to copy them, instead of into new memory.
        """
        if into is not None:
            source = torch.as_tensor(index.ravel())
            for both, own in zip(self._kv, into, strict=True):
                for kept, target in zip(both, own, strict=True):
                    flat = target.flatten(2, 3)  # a view, since a frame's columns lie side by side
                    torch.index_select(kept, 2, source.to(kept.device), out=flat)
            return list(into)
        if not index.any():
            return [plane.zeros(*index.shape) for plane in self.planes]
        flat = torch.as_tensor(index.ravel())

        def copied(own: Tensor, source: Tensor) -> Tensor:
            return own.index_select(2, source).view(*own.shape[:2], *index.shape, own.shape[3])

        return [
            (copied(keys, source), copied(values, source))
            for keys, values in self._kv
            for source in [flat.to(keys.device)]
        ]

    def put(self, slots: Ints, kv: Sequence[KV], columns: Ints) -> None:
        """Copy columns of a batch, counted through all rows, into slots."""
        both = torch.as_tensor(np.stack((slots, columns)))
        for mine, theirs in zip(self._kv, kv, strict=True):
            to, source = both.to(mine[0].device)
            for own, batch in zip(mine, theirs, strict=True):
                own.index_copy_(2, to, batch.flatten(2, 3).index_select(2, source))


class Slots:
    """Slots of a store, free again when this object goes.

    Attributes:
        ids: The slots; 0 for those that were given back.
    """

    __slots__ = ("ids", "store")

    def __init__(self, store: Store, ids: Ints) -> None:
        self.store = store
        self.ids = ids

    def give_back(self, count: int) -> None:
        """Let the first ``count`` slots go."""
        if self.ids[:count].any():
            self.store.let_go(self.ids[:count].copy())
            self.ids[:count] = 0

    def __del__(self) -> None:
        self.store.let_go(self.ids)
