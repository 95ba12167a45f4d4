"""``Memory``: the keys and values of a model, and the batches that may go on."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence

import torch

from w2s_chains.backend.kv.batch import Batch, GivenBackError, Path
from w2s_chains.backend.kv.frames import Frames
from w2s_chains.backend.kv.layers import PLAIN, Layers
from w2s_chains.backend.kv.masks import ALL, Windows, first_seen
from w2s_chains.backend.kv.segment import Segment, give_back, lost_states
from w2s_chains.backend.kv.store import Plane, Store

_LAST = 2
"""Batches that may go on: one model may be both the proposer and the guides."""


class Memory:
    """The keys and values of a model: the store while it is in use, and the last batches.

    Attributes:
        windows: What each kind of the model's layers sees.
        layers: What each of its layers keeps.
        frames: Finds a place for every batch that does not move; None gives each memory anew.
        whole: Whether a path is kept and gathered with what no layer sees any more. It is where a
            model counts columns, chooses among all tokens, or has layers that see all of them.
    """

    def __init__(
        self,
        planes: Sequence[Plane],
        windows: Windows = ALL,
        layers: Layers = PLAIN,
        whole: bool = True,
    ) -> None:
        self.planes = planes
        self.windows = windows
        self.layers = layers
        self.whole = whole or bool(layers.parts) or layers.indexed or not first_seen(windows, 2**31)
        self.frames: Frames | None = None
        self._store: weakref.ref[Store] | None = None
        self._last: list[weakref.ref[Batch]] = []

    @property
    def bytes_per_token(self) -> int:
        """Size of one token's keys and values."""
        return sum(plane.bytes_per_token for plane in self.planes)

    def gather(
        self,
        paths: Sequence[Path],
        *,
        width: int,
        steps: int,
        adapters: Sequence[str | None],
        limit: int | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Batch:
        """Go on with a batch whose rows are these paths, else gather them.

        ``Batch`` documents the arguments.
        """
        columns = 1 + width * (steps - 1)
        for ref in self._last:
            if (last := ref()) and last.holds(paths, adapters, columns):
                return last.go_on(paths, width, steps, limit)
        last = None
        self._make_room(paths)
        store = (self._store and self._store()) or self._new_store()
        batch = Batch(
            store,
            paths,
            width=width,
            steps=steps,
            adapters=adapters,
            limit=limit,
            device=device,
            dtype=dtype,
            frames=self.frames,
            windows=self.windows,
            layers=self.layers,
            whole=self.whole,
        )
        self._store = weakref.ref(store)
        self._last.append(weakref.ref(batch))
        return batch

    def _new_store(self) -> Store:
        if self.whole:
            return Store(self.planes)
        seen = functools.partial(first_seen, self.windows)
        return Store(self.planes, functools.partial(give_back, first_seen=seen))

    def _make_room(self, paths: Sequence[Path]) -> None:
        """Let batches go before the next one takes memory: those whose rows it takes over."""
        begun = {id(segment.tip[0]) for segment, _ in paths if segment and segment.tip}
        kept: list[weakref.ref[Batch]] = []
        for ref in self._last:
            batch = ref()
            if batch is not None and id(batch) in begun:
                batch.let_go()
            elif batch is not None:
                kept.append(ref)
        if len(kept) == _LAST and (oldest := kept.pop(0)()):
            oldest.let_go()
        self._last = kept


Read = Callable[[Sequence[Path], Sequence[Sequence[int]], Sequence[str | None]], Batch]
"""Gathers paths and reads tokens after each, of adapters; returns the batch. [B], [B, n], [B]"""


def read_lost_states(paths: Sequence[Path], adapters: Sequence[str | None], read: Read) -> None:
    """Read again what recurrent layers must have read before the paths go on."""
    for lost in lost_states(paths, adapters):
        begins = [(one.segment, one.begin) for one in lost]
        ids = [one.segment.path_ids(one.begin)[: one.tokens] for one in lost]
        batch = read(begins, ids, [one.adapter for one in lost])
        batch.remember([(one.segment, row) for row, one in enumerate(lost)])


def read_given_back(
    error: GivenBackError, paths: Sequence[Path], adapters: Sequence[str | None], read: Read
) -> None:
    """Read paths again whose slots were given back; they get new ones for what layers see."""
    found: list[tuple[Segment, Segment, int, int]] = []
    for row, begin in error.paths:
        segment, upto = paths[row]
        assert segment is not None
        again = Segment(None, 0, segment.path_ids()[: upto + 1])
        batch = read([(None, 0)], [again.ids[:upto]], [adapters[row]])
        batch.keep([(again, 0, 0, upto)])
        found.append((segment, again, upto, begin))
    # Not before: slots that paths have got may be given back while the next is read.
    for segment, again, upto, begin in found:
        segment.take_over(again, upto, begin)
