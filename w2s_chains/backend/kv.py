"""Keys and values that belong to the tokens of a tree, and how a batch gathers them.

A ``Segment`` is a run of tokens that continues a parent segment. Its parent may be longer than the
point where it starts (a text that was tokenised anew shares only a prefix): whatever the parent has
from ``start`` on is not part of this path.

The last token of a path is not read until something has to follow it. So a segment that ends
before position ``end`` holds keys and values for positions ``[start - 1, end - 1)``: the last token
it shares with its parent, and all of its own but the last. Root-to-leaf, these slices tile the path
without gap or overlap, and every token is read once.

A ``Batch`` copies such paths side by side, aligned at their ends (padding on the left):

    row 0   . . . p p p p a a a | new columns
    row 1   p p p p b b b b b b | new columns
            position = column - shift of the row

Segments die with whoever holds them; nothing is ever released by hand.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Layers whose keys and values have one shape and lie on one device, stored as one tensor."""

    layers: tuple[int, ...]
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    def empty(self, *shape: int) -> KV:
        """Zeroed keys and values [layers, *shape[:-1], heads, shape[-1], dim].

        Zeroed because masked columns are still multiplied by 0, and 0 * NaN is NaN.
        """
        *batch, columns = shape
        return tuple(  # type: ignore[return-value]
            torch.zeros(
                (len(self.layers), *batch, self.heads, columns, dim),
                dtype=self.dtype,
                device=self.device,
            )
            for dim in (self.key_dim, self.value_dim)
        )


KV = tuple[Tensor, Tensor]
"""Keys and values of one plane: [layers, heads, columns, dim], or with rows [layers, B, ...]."""


class Segment:
    """A run of tokens and what one model knows of it.

    Attributes:
        parent: The segment that this one continues; None at position 0.
        start: Position of the first own token.
        ids: Own tokens.
        logprobs: log p of each own token given all before it, in nats; empty for a prompt, which
            is not scored.
        kv: Keys and values per plane; None until the segment is read, and for ever if nothing can
            follow it.
    """

    __slots__ = ("__weakref__", "ids", "kv", "logprobs", "parent", "start")

    def __init__(self, parent: Segment | None, start: int, ids: Sequence[int]) -> None:
        assert (parent is None) == (start == 0), "only a root starts at position 0"
        assert parent is None or start <= parent.end
        self.parent = parent
        self.start = start
        self.ids = tuple(ids)
        self.logprobs: tuple[float, ...] = ()
        self.kv: list[KV] | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def kv_start(self) -> int:
        return max(self.start - 1, 0)

    def path(self) -> Iterator[tuple[Segment, int]]:
        """(segment, end) from here to the root; ``end`` is where its part of this path ends."""
        segment: Segment | None = self
        end = self.end
        while segment is not None:
            if end > segment.start or segment is self:
                yield segment, end
            end = min(end, segment.start)
            segment = segment.parent

    def path_ids(self) -> list[int]:
        """All tokens from position 0 to ``end``."""
        runs = [segment.ids[: end - segment.start] for segment, end in self.path()]
        return [token for run in reversed(runs) for token in run]

    def loglikelihood(self, first: int) -> float:
        """Sum of log p over the positions from ``first`` to ``end``, in nats."""
        total = 0.0
        for segment, end in self.path():
            if end <= first:
                break
            total += sum(segment.logprobs[max(first - segment.start, 0) : end - segment.start])
        return total

    def kv_slices(self, upto: int) -> Iterator[tuple[int, int, Segment]]:
        """(from, to, segment) of the keys and values for positions [0, upto) of this path."""
        segment: Segment | None = self
        while segment is not None and upto > 0:
            if upto > segment.kv_start:
                yield segment.kv_start, upto, segment
                upto = segment.kv_start
            segment = segment.parent


class _Layer(CacheLayerMixin):
    """One layer's view of a batch: writes new columns in place, returns all that are filled."""

    is_sliding = False

    def __init__(self, batch: Batch, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        # Weak, or batch and layer would keep each other until Python's collector comes by, and
        # gigabytes of keys and values with them.
        self.batch: Batch = weakref.proxy(batch)
        self.keys, self.values = keys, values  # [B, H, columns, D]
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the batch allocates."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        begin, end = self.batch.filled, self.batch.filled + key_states.shape[-2]
        self.keys[:, :, begin:end] = key_states
        self.values[:, :, begin:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.batch.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self.batch.filled

    def get_max_length(self) -> int:
        return -1


class Batch:
    """The paths of some segments, side by side, with room for new columns.

    Attributes:
        filled: Columns in use.
        past: Tokens of each row that were gathered. [B]
        mask: Which columns hold tokens. [B, columns], on the model's input device
        cache: What transformers reads and writes.
    """

    def __init__(
        self,
        planes: Sequence[Plane],
        paths: Sequence[tuple[Segment | None, int]],
        room: int,
        device: torch.device,
    ) -> None:
        """Gather positions [0, upto) of each (segment, upto), with ``room`` empty columns after."""
        self.planes = planes
        self.past = [upto for _, upto in paths]
        self.filled = max(self.past)
        columns = self.filled + room
        self.mask = torch.zeros((len(paths), columns), dtype=torch.long, device=device)
        self.kv = [plane.empty(len(paths), columns) for plane in planes]
        for row, (segment, upto) in enumerate(paths):
            shift = self.filled - upto
            self.mask[row, shift : self.filled] = 1
            if segment is None:
                continue
            for begin, end, source in segment.kv_slices(upto):
                assert source.kv is not None, "a path is read from the root down"
                for batch_kv, kv in zip(self.kv, source.kv, strict=True):
                    for target, own in zip(batch_kv, kv, strict=True):
                        target[:, row, :, shift + begin : shift + end] = own[:, :, : end - begin]
        self._shift = torch.tensor([self.filled - upto for upto in self.past], device=device)
        self._make_cache()

    def _make_cache(self) -> None:
        layers: dict[int, _Layer] = {}
        for plane, (keys, values) in zip(self.planes, self.kv, strict=True):
            for i, layer in enumerate(plane.layers):
                layers[layer] = _Layer(self, keys[i], values[i])
        self.cache = Cache(layers=[layers[i] for i in sorted(layers)])

    def __len__(self) -> int:
        return len(self.past)

    def positions(self, count: int) -> Tensor:
        """Positions of the next ``count`` columns: [B, count]."""
        columns = torch.arange(self.filled, self.filled + count, device=self._shift.device)
        # A padding column on the left of an empty row has no position; 0 keeps it in range.
        return (columns[None, :] - self._shift[:, None]).clamp_(min=0)

    def select(self, rows: Sequence[int], room: int) -> Batch:
        """A new batch of these rows (repeated as often as named), with ``room`` empty columns."""
        other = object.__new__(Batch)
        other.planes = self.planes
        other.past = [self.past[row] for row in rows]
        other.filled = self.filled
        index = torch.tensor(rows, device=self.mask.device)
        other.mask = self.mask.new_zeros((len(rows), self.filled + room))
        other.mask[:, : self.filled] = self.mask[:, : self.filled].index_select(0, index)
        other._shift = self._shift.index_select(0, index)
        other.kv = []
        for plane, (keys, values) in zip(self.planes, self.kv, strict=True):
            grown = plane.empty(len(rows), self.filled + room)
            for target, own in zip(grown, (keys, values), strict=True):
                target[..., : self.filled, :] = own[..., : self.filled, :].index_select(
                    1, index.to(own.device)
                )
            other.kv.append(grown)
        other._make_cache()
        return other

    def slice(self, row: int, begin: int, count: int) -> list[KV]:
        """A copy of ``count`` columns of a row, so that the batch itself can go."""
        return [
            (
                keys[:, row, :, begin : begin + count].clone(),
                values[:, row, :, begin : begin + count].clone(),
            )
            for keys, values in self.kv
        ]
