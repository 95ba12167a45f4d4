"""What transformers reads and writes: keys and values by column, recurrent states by row.

Keys and values of a token stay as they are when further ones follow, so siblings share those of
their past. A recurrent layer has one state for everything that it has read, which the next token
changes: each branch is a row with a state of its own, and a segment keeps a copy of the state at
its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from w2s_chains.backend.kv.store import KV, Plane

Kind = Literal["conv", "recurrent"]

State = tuple[Tensor, ...]
"""The states of all recurrent layers after some tokens of one text, [1, ...] each."""


class FixedLayer(CacheLayerMixin):
    """One layer's cache, in memory that a batch or a frame has allocated: [B, H, columns, D].

    Attributes:
        indexer_keys: The keys of its indexer, if it has one. [B, columns, D]
        indexer_position_ids: The positions of all columns in use, in the layer where a model keeps
            them for its indexers. [n, B, columns in use]
    """

    is_sliding = False
    indexer_keys: Tensor
    indexer_position_ids: Tensor | None = None

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        cast(Any, super()).__init__()  # its options have no types
        self.keys, self.values = keys, values
        self.own = keys, values  # transformers says that the others may be None
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: there is memory already."""

    def get_max_length(self) -> int:
        return -1


class Filled(Protocol):
    """What has columns, the first ``filled`` of which are in use.

    Attributes:
        shift: Columns of padding before each row's first token. [B]
    """

    filled: int
    shift: Tensor


class GrowingLayer(FixedLayer):
    """Writes new columns in place, returns all that are filled."""

    def __init__(self, batch: Filled, keys: Tensor, values: Tensor) -> None:
        super().__init__(keys, values)
        self._batch = batch

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.own
        begin, end = self._batch.filled, self._batch.filled + key_states.shape[-2]
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Write the indexer's keys of new columns, and return all: [B, columns, D]."""
        begin, end = self._batch.filled, self._batch.filled + indexer_key_states.shape[1]
        self.indexer_keys[:, begin:end] = indexer_key_states
        return self.indexer_keys[:, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._batch.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self._batch.filled


class ContiguousLayer(GrowingLayer):
    """Returns copies without gaps, for code that gives keys and values another shape in place."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = super().update(key_states, value_states)
        return keys.contiguous(), values.contiguous()


class HybridLayer(LinearAttentionLayer, GrowingLayer):  # pyright: ignore[reportIncompatibleMethodOverride]
    """A layer that has both keys and values and a recurrent state (Falcon-H1).

    Only the state is initialized later: there is memory for keys and values already.
    """

    def __init__(self, batch: Filled, keys: Tensor, values: Tensor, count: int) -> None:
        GrowingLayer.__init__(self, batch, keys, values)
        # transformers keeps device and dtype of the state in fields of the same names.
        cast(Any, LinearAttentionLayer).__init__(self, number_of_states=count)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePart:
    """One tensor of a recurrent state.

    Attributes:
        layer: The layer that it belongs to.
        number: Which state of the layer.
        kind: "conv" for the last inputs of a short convolution, else "recurrent".
        empty: Its value before the first token. [1, ...]
    """

    layer: int
    number: int
    kind: Kind
    empty: Tensor


class Layers:
    """All layers of a model, by what they keep.

    Attributes:
        states: Number of states of each layer that has any.
        parts: The tensors of a row's state; none if no layer is recurrent.
        indexed: Whether some layers choose what they attend to by an indexer.
        positions: Where a model keeps positions for its indexers: the layer, and how many of each
            column.
        contiguous: Whether the model's code needs keys and values without gaps.
    """

    def __init__(self, cache: Cache) -> None:
        """Look at the cache of a model that has read one token."""
        self._idle = {i for i, own in enumerate(cache.layers) if isinstance(own, DummyLayer)}
        self.states: dict[int, int] = {}
        parts: list[StatePart] = []
        for i, layer in enumerate(cache.layers):
            if isinstance(layer, LinearAttentionCacheLayerMixin):
                self.states[i] = layer.number_of_states
                for number in range(layer.number_of_states):
                    for kind, held in _held(layer).items():
                        if (state := held[number]) is not None:
                            empty = torch.zeros_like(state)
                            parts.append(StatePart(layer=i, number=number, kind=kind, empty=empty))
        self.parts = tuple(parts)
        self.positions: dict[int, int] = {}
        for i, layer in enumerate(cache.layers):
            if (positions := getattr(layer, "indexer_position_ids", None)) is not None:
                self.positions[i] = len(positions)
        self.contiguous = False
        self.indexed = any(indexer_keys(own) is not None for own in cache.layers)

    @property
    def plain(self) -> bool:
        """Whether each layer keeps its own keys and values, and nothing else."""
        return not (self.parts or self._idle or self.indexed or self.contiguous)

    def cache(
        self,
        batch: Filled,
        planes: Sequence[Plane],
        kv: Sequence[KV],
        states: Sequence[State | None],
    ) -> Cache:
        """Make the cache of a batch.

        Args:
            batch: Whose columns are filled.
            planes: Which layers' keys and values lie together; indexers after their layers.
            kv: They, per plane; maybe for more rows. [layers, heads, rows, columns, dim]
            states: The state of each row; None before its first token. [B]
        """
        layers: dict[int, Any] = {i: DummyLayer() for i in self._idle}
        growing = ContiguousLayer if self.contiguous else GrowingLayer
        for plane, both in zip(planes, kv, strict=True):
            for at, i in enumerate(plane.layers):
                if plane.indexer:
                    layers[i].indexer_keys = both[0][at, 0, : len(states)]
                    continue
                keys, values = (held[at].transpose(0, 1)[: len(states)] for held in both)
                if count := self.states.get(i):
                    layers[i] = HybridLayer(batch, keys, values, count)
                else:
                    layers[i] = growing(batch, keys, values)
        for i, count in self.states.items():
            if i not in layers:
                layers[i] = cast(Any, LinearAttentionLayer)(number_of_states=count)
        if any(state is not None for state in states):
            for at, part in enumerate(self.parts):
                rows = [part.empty if state is None else state[at] for state in states]
                _begin(layers[part.layer], part, torch.cat(rows))
        for i, count in self.positions.items() if batch.filled else ():
            columns = torch.arange(batch.filled, device=batch.shift.device)
            positions = columns - batch.shift[:, None]
            layers[i].indexer_position_ids = positions.expand(count, -1, -1)
        return Cache(layers=[layers[i] for i in sorted(layers)])

    def state(self, cache: Cache, row: int) -> State:
        """Return a copy of a row's state."""
        held = (_held(cache.layers[own.layer])[own.kind][own.number] for own in self.parts)
        return tuple(own[row : row + 1].clone() for own in held if own is not None)


def indexer_keys(layer: Any) -> Tensor | None:
    """Return the keys of a layer's indexer, if it has one: [B, columns, D]."""
    return getattr(layer, "indexer_keys", None)


def _held(layer: Any) -> dict[Kind, dict[int, Tensor | None]]:
    return {"conv": layer.conv_states, "recurrent": layer.recurrent_states}


def _begin(layer: Any, part: StatePart, rows: Tensor) -> None:
    """Let a layer go on from states: [B, ...]."""
    number = part.number
    _held(layer)[part.kind][number] = rows
    layer.has_previous_state[number] = True
    if part.kind == "conv":
        layer.is_conv_states_initialized[number] = True
        layer.conv_kernel_size[number] = rows.shape[-1]
        layer.dtype, layer.device = rows.dtype, rows.device
    else:
        layer.is_recurrent_states_initialized[number] = True


PLAIN = Layers(Cache(layers=[]))
"""Layers that keep keys and values alone."""
