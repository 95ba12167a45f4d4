"""The key-value cache: ``Segment``, a run of tokens in a tree, and ``Batch``, which gathers paths.

A ``Segment`` is a run of tokens that continues a parent segment. It may start before its parent
ends, because a text that was tokenised again may share only a prefix with it. The parent's tokens
from ``start`` on are then not part of this path.

The last token of a path is not read until something has to follow it. So a segment that ends
before position ``end`` holds keys and values for positions ``[start - 1, end - 1)``: the last token
it shares with its parent, and all of its own but the last. From root to leaf these slices cover
the path without gap or overlap, and every token is read once.

A ``Batch`` copies such paths side by side, aligned at their ends (padding on the left), with room
for the branches that grow from each: one column that all branches of a row share, then one column
for each branch in turn.

    row 0   . . . p p p p a a | s | A B | A B | A B         width 2
    row 1   p p p p b b b b b | s | A B | A B | A B
                               fork

The shared column holds the last token of the path, which is not read yet. A branch sees the path,
the shared column and its own columns, so siblings share one copy of their past, in memory and in
attention.

A segment is freed when the last reference to it goes; nothing is released by hand.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_STRANGERS = 64
"""Sibling columns that may lie, masked, in a branch's attention, however short its past. They cost
little as long as they do not greatly outnumber the columns that the branch sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Layers whose keys and values have the same shape, dtype and device, stored as one tensor."""

    layers: tuple[int, ...]
    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        dims = self.key_dim + self.value_dim
        return len(self.layers) * self.heads * dims * self.dtype.itemsize

    def empty(self, *shape: int) -> KV:
        """Allocate keys and values: [layers, *shape[:-1], heads, shape[-1], dim]."""
        *batch, columns = shape
        keys, values = (
            torch.empty(
                (len(self.layers), *batch, self.heads, columns, dim),
                dtype=self.dtype,
                device=self.device,
            )
            for dim in (self.key_dim, self.value_dim)
        )
        return keys, values


KV = tuple[Tensor, Tensor]
"""Keys and values of one plane: [layers, heads, columns, dim], or with rows [layers, B, ...]."""


class Segment:
    """A run of tokens with one model's log-probabilities, keys and values.

    Attributes:
        parent: The segment that this one continues; None at position 0.
        start: Position of the segment's first token.
        ids: The segment's tokens.
        logprobs: log p of each token given all before it, in nats; empty for a prompt, which is
            not scored.
        kv: Keys and values per plane; None until the segment is read, and always None if nothing
            can follow it.
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
        """Yield (segment, end) from here to the root; the path leaves the segment at ``end``."""
        segment: Segment | None = self
        end = self.end
        while segment is not None:
            if end > segment.start or segment is self:
                yield segment, end
            end = min(end, segment.start)
            segment = segment.parent

    def path_ids(self) -> list[int]:
        """Return all tokens of the path, from position 0 to ``end``."""
        runs = [segment.ids[: end - segment.start] for segment, end in self.path()]
        return [token for run in reversed(runs) for token in run]

    def kv_slices(self, upto: int) -> Iterator[tuple[int, int, Segment]]:
        """Yield (begin, end, segment) of the keys and values that cover positions [0, upto)."""
        segment: Segment | None = self
        while segment is not None and upto > 0:
            if upto > segment.kv_start:
                yield segment.kv_start, upto, segment
                upto = segment.kv_start
            segment = segment.parent


class _Layer(CacheLayerMixin):
    """One layer's cache in a batch: writes new columns in place, returns all that are filled."""

    is_sliding = False

    def __init__(self, batch: Batch, keys: Tensor, values: Tensor) -> None:
        cast(Any, super()).__init__()  # its options have no types
        # Weak: a cycle of batch and layer would keep gigabytes of keys and values alive until
        # Python's garbage collector runs.
        self.batch: Batch = weakref.proxy(batch)
        self.keys, self.values = keys, values  # [B, H, columns, D]
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the batch has allocated the memory."""

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
    """Paths side by side, and the branches that grow from each.

    Attributes:
        width: Branches per row.
        past: Number of gathered tokens of each row. [B]
        fork: First column that belongs to a branch; the shared column lies before it.
        filled: Columns in use.
        cache: The cache that transformers reads and writes.
        adapters: The adapter of each row, as in ``CausalLM.adapter``. [B]
    """

    adapters: Sequence[str | None] = ()

    def __init__(
        self,
        planes: Sequence[Plane],
        paths: Sequence[tuple[Segment | None, int]],
        *,
        width: int,
        steps: int,
        device: torch.device,
        dtype: torch.dtype,
        limit: int | None = None,
    ) -> None:
        """Gather positions [0, upto) of each (segment, upto), and make room for the branches.

        Args:
            planes: The layers of the model.
            paths: One per row.
            width: Branches per row.
            steps: Tokens that each branch reads, the shared one included.
            device: Device of the model's input.
            dtype: Dtype of the model's attention scores.
            limit: Positions that the model has. Rows with fewer steps than others read padding
                beyond their end, which must not lie beyond the model's.
        """
        self.planes = planes
        self.width = width
        self.past = [upto for _, upto in paths]
        self.filled = max(self.past)
        self.fork = self.filled + 1
        self._dtype = dtype
        self._limit = limit if limit is not None and self.filled + steps > limit else None
        columns = self.fork + width * (steps - 1)
        self._shift = torch.tensor([self.filled - upto for upto in self.past], device=device)
        self._columns = torch.arange(columns, device=device)
        self._mask = (self._columns >= self._shift[:, None]).long()  # [B, columns]
        self.kv = [plane.empty(len(paths), columns) for plane in planes]
        for row, (segment, upto) in enumerate(paths):
            shift = self.filled - upto
            for own in (own for kv in self.kv for own in kv):
                own[:, row, :, :shift] = 0  # masked columns are multiplied by 0, and 0 * NaN is NaN
            if segment is None:
                continue
            for begin, end, source in segment.kv_slices(upto):
                assert source.kv is not None, "a path is read from the root down"
                for batch_kv, kv in zip(self.kv, source.kv, strict=True):
                    for target, own in zip(batch_kv, kv, strict=True):
                        target[:, row, :, shift + begin : shift + end] = own[:, :, : end - begin]
        layers: dict[int, _Layer] = {}
        for plane, (keys, values) in zip(planes, self.kv, strict=True):
            for i, layer in enumerate(plane.layers):
                layers[layer] = _Layer(self, keys[i], values[i])
        self.cache = Cache(layers=[layers[i] for i in sorted(layers)])

    def __len__(self) -> int:
        return len(self.past)

    def positions(self, count: int) -> Tensor:
        """Return the positions of the next ``count`` columns: [B, count]."""
        columns = self._columns[self.filled : self.filled + count]
        step = torch.where(
            columns < self.fork, columns, self.fork + (columns - self.fork) // self.width
        )
        positions = step[None, :] - self._shift[:, None]
        return positions if self._limit is None else positions.clamp(max=self._limit - 1)

    def attention_mask(self, count: int) -> Tensor:
        """Return the attention mask of the next ``count`` columns, as transformers expects it.

        Returns:
            Without branches 1 for each column that holds a token, else 0 [B, columns]; the model
            itself adds the causal mask. With branches a float mask that is added to the attention
            scores [B, 1, count, columns].
        """
        end = self.filled + count
        if self.width == 1:
            return self._mask[:, :end]
        seen, asking = self._columns[:end], self._columns[self.filled : end, None]
        related = (seen < self.fork) | ((seen - asking) % self.width == 0)  # [count, columns]
        visible = self._mask[:, None, None, :end].bool() & (related & (seen <= asking))
        blocked = torch.finfo(self._dtype).min
        return torch.zeros_like(visible, dtype=self._dtype).masked_fill_(~visible, blocked)

    def slice(self, row: int, branch: int, count: int) -> list[KV]:
        """Copy the first ``count`` tokens of a branch, the shared one included."""
        shared = slice(self.fork - 1, self.fork)
        own = slice(self.fork + branch, self.fork + self.width * max(count - 1, 0), self.width)

        def copied(rows: Tensor) -> Tensor:
            return torch.cat((rows[:, row, :, shared], rows[:, row, :, own]), dim=-2)

        return [(copied(keys), copied(values)) for keys, values in self.kv]


def best_width(sizes: Iterable[int], steps: int, past: int) -> int:
    """Choose how many branches a row has, so that as few tokens as possible are read.

    A row of w branches reads 1 + w * (steps - 1) tokens; branches that a row lacks are padding.
    Among equally good widths the widest is taken, since it copies the past least often.

    Args:
        sizes: Number of siblings of each parent.
        steps: Most tokens that a branch reads, the shared one included.
        past: Tokens of the longest path; the longer it is, the more siblings may share it.
    """
    sizes = list(sizes)
    widest = max(1, min(max(sizes), max(_STRANGERS, past) // steps))

    def tokens(width: int) -> int:
        return sum(-(-size // width) for size in sizes) * (1 + width * (steps - 1))

    return min(range(1, widest + 1), key=lambda width: (tokens(width), -width))
