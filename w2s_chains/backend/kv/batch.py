"""``Batch``: paths side by side, gathered from the store, and the branches that grow from each.

A batch gathers paths with one indexed copy, aligned at their ends (padding on the left), with room
for the branches that grow from each: one column that all branches of a row share, then one column
for each branch in turn.

    row 0   . . . p p p p a a | s | A B | A B | A B         width 2
    row 1   p p p p b b b b b | s | A B | A B | A B
                               fork

The shared column holds the last token of the path, which is not read yet. A branch sees the path,
the shared column and its own columns, so siblings share one copy of their past, in memory and in
attention.

A row without columns of several branches is a path again. If all rows are, and the next paths are
just these, the batch goes on as it is, and nothing is copied (``Memory.gather``).

Where no layer sees the beginning of a path any more, its columns are left out.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from w2s_chains.backend.kv.frames import Frames
from w2s_chains.backend.kv.layers import PLAIN, Layers, State
from w2s_chains.backend.kv.masks import ALL, Mask, Windows, first_seen, given
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.kv.store import Ints, Store

Path = tuple[Segment | None, int]
"""A segment, and the number of positions of its path."""

Branch = tuple[Segment, int, int, int]
"""A segment that was read as a branch: its row, the number of the branch, and the number of tokens
that the model has read, the shared one included."""

_LEAST_ROOM = 16
"""Columns beyond those that are asked for, so that a batch can go on."""

_STRANGERS = 64
"""Sibling columns that may lie, masked, in a branch's attention, however short its past. They cost
little as long as they do not greatly outnumber the columns that the branch sees."""


class GivenBackError(Exception):
    """Slots that paths need were given back.

    Attributes:
        paths: (row, first position that it needs) of each such path.
    """

    def __init__(self, paths: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.paths = paths


class Batch:
    """Paths side by side, and the branches that grow from each.

    Attributes:
        adapters: The adapter of each row, as in ``CausalLM.adapter``. [B]
        past: Number of tokens of each row's path. [B]
        width: Branches per row.
        fork: First column that belongs to a branch; the shared column lies before it.
        filled: Columns in use.
        shift: The column of each row's position 0; less than 0 where that is left out. [B]
        kv: Keys and values per plane: [layers, heads, B, columns, dim].
        cache: The cache that transformers reads and writes.
        frame: Where keys and values lie if work on them can be recorded; it may have more rows.
    """

    width: int
    fork: int

    def __init__(
        self,
        store: Store,
        paths: Sequence[Path],
        *,
        width: int,
        steps: int,
        adapters: Sequence[str | None],
        limit: int | None,
        device: torch.device,
        dtype: torch.dtype,
        frames: Frames | None = None,
        windows: Windows = ALL,
        layers: Layers = PLAIN,
        whole: bool = True,
    ) -> None:
        """Gather positions [0, upto) of each (segment, upto), with room for the branches.

        Args:
            store: Where the segments' keys and values lie.
            paths: One per row.
            width: Branches per row.
            steps: Tokens that each branch reads, the shared one included.
            adapters: The adapter of each row.
            limit: Positions that the model has. Rows with fewer steps than others read padding
                beyond their end, which must not lie beyond the model's.
            device: Device of the model's input.
            dtype: Dtype of the model's attention scores.
            frames: Finds a place that does not move, if wanted.
            windows: What each kind of layers sees.
            layers: What each layer keeps.
            whole: Whether to gather what no layer sees as well.

        Raises:
            GivenBackError: Some paths must be read again before they can be gathered.
        """
        self._windows = windows
        self._layers = layers
        self.adapters = adapters
        self.past = [upto for _, upto in paths]
        begins = [0 if whole else first_seen(windows, upto) for upto in self.past]
        self.filled = max(upto - begin for upto, begin in zip(self.past, begins, strict=True))
        self._store = store
        self._dtype = dtype
        self._tips: list[weakref.ref[Segment]] = []  # what the batch can go on with
        columns = self._begin(width, steps, limit)
        if width == 1 or steps == 1:
            columns += _LEAST_ROOM + self.filled // 8
        self.frame = None if frames is None else frames.take(self, len(paths), columns)
        if self.frame is not None:
            columns = self.frame.columns
        self._shifts = [self.filled - upto for upto in self.past]
        self.shift = torch.tensor(self._shifts, device=device)
        self._columns = torch.arange(columns, device=device)
        first = self.shift if whole else self.shift + torch.tensor(begins, device=device)
        self._mask = (self._columns >= first[:, None]).long()  # [B, columns]
        table = self._table(paths, begins, columns)
        self.kv = store.gather(table, self.frame and self.frame.kv)
        # Weak: a cycle of batch and layer would keep gigabytes of keys and values alive until
        # Python's garbage collector runs.
        own: Batch = weakref.proxy(self)
        self.cache = layers.cache(own, store.planes, self.kv, self._states(paths))

    def _states(self, paths: Sequence[Path]) -> list[State | None]:
        """Return the recurrent state of each path, which must be known."""
        if not self._layers.parts:
            return [None] * len(paths)
        known = [(0, None) if own is None else own.known_state(upto) for own, upto in paths]
        assert [at for at, _ in known] == self.past
        return [state for _, state in known]

    def remember(self, rows: Sequence[tuple[Segment, int]]) -> None:
        """Let segments know the recurrent states of their rows after the columns in use."""
        if self._layers.parts:
            states = {row: self._layers.state(self.cache, row) for row in {row for _, row in rows}}
            for segment, row in rows:
                segment.states[self.past[row] + self._fed] = states[row]

    def _begin(self, width: int, steps: int, limit: int | None) -> int:
        """Begin branches after the columns in use; return the number of columns with them."""
        self.width = width
        self.fork = self.filled + 1
        self._past: Tensor | None = None  # the float mask of the columns before the shared one
        self._limit = limit if limit is not None and max(self.past) + steps > limit else None
        return self.fork + width * (steps - 1)

    def _table(self, paths: Sequence[Path], begins: Sequence[int], columns: int) -> Ints:
        """Return the slot of each column, 0 for those without a token: [B, columns]."""
        rows = len(paths) if self.frame is None else self.frame.rows
        table = np.zeros((rows, columns), np.int64)
        gone: list[tuple[int, int]] = []
        for row, ((segment, upto), begin) in enumerate(zip(paths, begins, strict=True)):
            shift, own = self._shifts[row], table[row]
            for at, slots in () if segment is None else segment.slots(upto, begin):
                own[shift + at : shift + at + len(slots)] = slots
            if not own[shift + begin : self.filled].all():
                gone.append((row, begin))
        if gone:
            raise GivenBackError(gone)
        return table

    def __len__(self) -> int:
        return len(self.past)

    @property
    def _fed(self) -> int:
        """Columns that were read since the paths were gathered, or since the batch went on."""
        return self.filled - self.fork + 1

    def next_columns(self, count: int) -> Tensor:
        """Return the numbers of the next ``count`` columns: [count]."""
        return self._columns[self.filled : self.filled + count]

    def positions(self, count: int) -> Tensor:
        """Return the positions of the next ``count`` columns: [B, count]."""
        end = self.filled + count
        columns = self._columns[self.filled : end]
        if self.width > 1 and end > self.fork:
            columns = torch.as_tensor(self._alone(np.arange(self.filled, end))).to(columns.device)
        positions = columns[None, :] - self.shift[:, None]
        return positions if self._limit is None else positions.clamp(max=self._limit - 1)

    def _alone(self, columns: Ints) -> Ints:
        """Return which column each would be if its branch were alone in its row."""
        steps = (columns - self.fork) // self.width
        return np.where(columns < self.fork, columns, self.fork + steps)

    def attention_mask(self, count: int) -> Mask:
        """Return the attention mask of the next ``count`` columns, as transformers expects it.

        Returns:
            Without branches 1 for each column that holds a token, else 0 [B, columns]; the model
            itself adds the causal mask and its windows. With branches what is added to the
            attention scores [B, 1, count, columns].
        """
        end = self.filled + count
        if self.width == 1 or end <= self.fork:
            return self._mask[:, :end]
        return given(self.added_masks(count, end))

    def added_masks(self, count: int, columns: int) -> dict[str, Tensor]:
        """Return what is added to the attention scores of the next ``count`` columns.

        Args:
            count: The number of columns that are read.
            columns: The number of those that they see or not, from the first one on.

        Returns:
            By kind of layers: 0 where a column is seen. [B, 1, count, columns]
        """
        mask = self.float_mask(count, columns)
        if self._windows is ALL:
            return dict.fromkeys(ALL, mask)
        positions = self._alone(np.arange(columns))[None, :] - np.array(self._shifts)[:, None]
        kinds = self._windows.items()
        return {kind: window.cut(mask, positions, self.filled) for kind, window in kinds}

    def float_mask(self, count: int, columns: int) -> Tensor:
        """Return the mask of layers without a window, as ``added_masks`` does."""
        # Made here and copied in one piece: on a GPU a dozen small operations would take longer.
        blocked = torch.finfo(self._dtype).min
        shared = self.fork - 1
        asking = np.arange(self.filled, self.filled + count)[:, None]
        seen = np.arange(shared, columns)
        related = (seen == shared) | ((seen - asking) % self.width == 0)
        hidden = ~(related & (seen <= asking)) * np.float32(blocked)  # [count, columns from shared]
        own = torch.as_tensor(hidden).to(self._mask.device, self._dtype)
        if self._past is None:
            self._past = (1 - self._mask[:, None, None, :shared]).to(self._dtype) * blocked
        past = self._past.expand(-1, -1, count, -1)
        return torch.cat((past, own.expand(len(self), 1, -1, -1)), dim=-1)

    def keep(self, branches: Sequence[Branch]) -> None:
        """Put keys and values of branches into the store, and let their segments know where.

        Branches of a row share the slot of the shared column.
        """
        rows = list(dict.fromkeys(row for _, row, _, count in branches if count))
        counts = [1] * len(rows) + [max(count - 1, 0) for *_, count in branches]
        slots = self._store.take(counts)
        width, columns = self.width, len(self._columns)
        shared = dict(zip(rows, slots, strict=False))
        taken = [np.array([row * columns + self.fork - 1 for row in rows], np.int64)]
        for (segment, row, branch, count), own in zip(branches, slots[len(rows) :], strict=True):
            begin = row * columns + self.fork + branch
            taken.append(np.arange(begin, begin + width * len(own.ids), width))
            segment.kv = (shared[row], own) if count else ()
        if slots:
            ids = np.concatenate([own.ids for own in slots])
            self._store.put(ids, self.kv, np.concatenate(taken))
        # Without columns of other branches, or that were read in vain.
        whole = [(segment, row) for segment, row, _, count in branches if count == self._fed]
        for segment, row in whole:
            segment.tip = (self, row)
            self._tips.append(weakref.ref(segment))
        self.remember(whole)

    def holds(self, paths: Sequence[Path], adapters: Sequence[str | None], columns: int) -> bool:
        """Return whether the rows are just these paths, with room for that many columns more."""
        return (
            len(paths) == len(self)
            and all(
                segment is not None
                and segment.tip == (self, row)
                and upto == self.past[row] + self._fed
                for row, (segment, upto) in enumerate(paths)
            )
            and self.adapters == adapters
            and self.filled + columns <= len(self._columns)
        )

    def go_on(self, paths: Sequence[Path], width: int, steps: int, limit: int | None) -> Batch:
        """Begin new branches after the columns in use; the rows hold these paths."""
        self.let_go()
        self.past = [upto for _, upto in paths]
        self._begin(width, steps, limit)
        return self

    def let_go(self) -> None:
        """Forget the paths that could go on here, which hold the batch."""
        for tip in self._tips:
            if segment := tip():
                segment.tip = None
        self._tips.clear()


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
