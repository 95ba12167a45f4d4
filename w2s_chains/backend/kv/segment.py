"""``Segment``: a run of tokens in a tree of texts, and where its keys and values lie.

A segment continues a parent segment. It may start before its parent ends, because a text that was
tokenised again may share only a prefix with it. The parent's tokens from ``start`` on are then not
part of this path.

The last token of a path is not read until something has to follow it. So a segment that ends
before position ``end`` holds keys and values for positions ``[start - 1, end - 1)``: the last token
it shares with its parent, and all of its own but the last. From root to leaf these slices cover
the path without gap or overlap, and every token is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from w2s_chains.backend.kv.layers import State
from w2s_chains.backend.kv.store import Ints, Slots

_SPARE = 16
"""Tokens before the window of a path that are kept as well: the next path may begin a little
earlier, where a text was tokenised again."""


class Segment:
    """A run of tokens with one model's log-probabilities, keys and values.

    Attributes:
        parent: The segment that this one continues; None at position 0.
        start: Position of the segment's first token.
        ids: The segment's tokens.
        logprobs: log p of each token given all before it, in nats; empty for a prompt, which is
            not scored.
        states: The states of recurrent layers, by the number of tokens of the path before them.
        tip: The ``Batch`` that can go on with this path as one of its rows, and the row; else None.
    """

    __slots__ = ("__weakref__", "_kv", "ids", "logprobs", "parent", "start", "states", "tip")

    def __init__(self, parent: Segment | None, start: int, ids: Sequence[int]) -> None:
        assert (parent is None) == (start == 0), "only a root starts at position 0"
        assert parent is None or start <= parent.end
        self.parent = parent
        self.start = start
        self.ids = tuple(ids)
        self.logprobs: tuple[float, ...] = ()
        self._kv: tuple[Slots, ...] | None = None
        self.states: dict[int, State] = {}
        self.tip: tuple[object, int] | None = None

    @property
    def kv(self) -> tuple[Slots, ...] | None:
        """The slots of its keys and values, in runs that siblings may share.

        It is None until the segment is read, and always None if nothing can follow it.
        """
        return self._kv

    @kv.setter
    def kv(self, runs: tuple[Slots, ...] | None) -> None:
        self._kv = runs
        if runs and (users := runs[0].store.users) is not None:
            users.add(self)

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def kv_start(self) -> int:
        return max(self.start - 1, 0)

    def cut(self, count: int) -> Segment:
        """Return the segment of the first ``count`` tokens, which shares its slots."""
        segment = Segment(self.parent, self.start, self.ids[:count])
        segment.logprobs = self.logprobs[:count]
        segment.kv = self.kv
        segment.states = {at: own for at, own in self.states.items() if at <= segment.end}
        return segment

    def path(self) -> Iterator[tuple[Segment, int]]:
        """Yield (segment, end) from here to the root; the path leaves the segment at ``end``."""
        segment: Segment | None = self
        end = self.end
        while segment is not None:
            if end > segment.start or segment is self:
                yield segment, end
            end = min(end, segment.start)
            segment = segment.parent

    def path_ids(self, begin: int = 0) -> list[int]:
        """Return the tokens of the path, from position ``begin`` to ``end``."""
        runs: list[Sequence[int]] = []
        for segment, end in self.path():
            runs.append(segment.ids[max(begin - segment.start, 0) : end - segment.start])
            if segment.start <= begin:
                break
        return [token for run in reversed(runs) for token in run]

    def known_state(self, upto: int) -> tuple[int, State | None]:
        """Return the last known recurrent state up to a position, after how many tokens it is."""
        found: tuple[int, State | None] = 0, None
        for segment, end in self.path():
            if found[0] >= segment.end:
                break
            for at, state in segment.states.items():
                if found[0] < at <= min(upto, end):
                    found = at, state
        return found

    def runs(self, upto: int, begin: int = 0) -> Iterator[tuple[int, Slots, int]]:
        """Yield the runs of slots that cover positions [begin, upto).

        Yields:
            (position of the run's first slot, run, how many of its slots are part of the path)
        """
        segment: Segment | None = self
        while segment is not None and upto > begin:
            if upto > segment.kv_start:
                assert segment.kv is not None, "a path is read from the root down"
                at = segment.kv_start
                for run in segment.kv:
                    if at < upto and begin < at + len(run.ids):
                        yield at, run, min(len(run.ids), upto - at)
                    at += len(run.ids)
                upto = segment.kv_start
            segment = segment.parent

    def slots(self, upto: int, begin: int = 0) -> Iterator[tuple[int, Ints]]:
        """Yield (position, slots) of the keys and values that cover positions [begin, upto).

        The slots are those of the segments themselves, not copies; 0 where one was given back.
        """
        for at, run, count in self.runs(upto, begin):
            skipped = max(begin - at, 0)
            yield at + skipped, run.ids[skipped:count]

    def take_over(self, other: Segment, upto: int, begin: int) -> None:
        """Take slots where own ones were given back, of positions [begin, upto).

        The other segment is a root with the same tokens, whose slots nobody shares.
        """
        theirs: Ints = np.zeros(upto, np.int64)
        for at, ids in other.slots(upto):
            theirs[at : at + len(ids)] = ids
        for at, ids in self.slots(upto, begin):
            gone = ids == 0
            ids[gone] = theirs[at : at + len(ids)][gone]
            theirs[at : at + len(ids)][gone] = 0
        for at, ids in other.slots(upto):
            ids[:] = theirs[at : at + len(ids)]


def give_back(segments: Collection[Segment], first_seen: Callable[[int], int]) -> None:
    """Let slots go that no path sees any more.

    A search goes on from its leaves; if it has dropped these, from their parents. What else it
    goes on from has to be read again.

    Args:
        segments: All that were read.
        first_seen: The first position that a token at a position sees.
    """
    read = [segment for segment in segments if segment.kv]
    inner = {segment.parent for segment in read}
    leaves = [segment for segment in read if segment not in inner]
    above = {leaf.parent for leaf in leaves if leaf.parent is not None and leaf.parent.kv}
    unseen = {run: len(run.ids) for segment in read for run in segment.kv or ()}
    for segment in [*leaves, *above]:
        upto = segment.kv_start + sum(len(run.ids) for run in segment.kv or ())
        begin = max(first_seen(upto) - _SPARE, 0)
        for at, run, _ in segment.runs(upto, begin):
            unseen[run] = min(unseen.get(run, len(run.ids)), max(begin - at, 0))
    for run, count in unseen.items():
        run.give_back(count)


class Lost(NamedTuple):
    """Tokens that recurrent layers must read again before a path goes on."""

    segment: Segment
    begin: int
    tokens: int
    adapter: str | None


def lost_states(
    paths: Sequence[tuple[Segment | None, int]], adapters: Sequence[str | None]
) -> Iterable[list[Lost]]:
    """Find the paths that leave a segment where its state was not kept.

    Args:
        paths: (segment, upto), as batches gather them. [B]
        adapters: The adapter of each. [B]

    Returns:
        What to read, by number of tokens; prompts, which are read at once, apart.
    """
    groups: dict[tuple[int, bool], dict[tuple[Segment, int], Lost]] = {}
    for (segment, upto), adapter in zip(paths, adapters, strict=True):
        if segment is None:
            continue
        begin, _ = segment.known_state(upto)
        if begin < upto:
            same = groups.setdefault((upto - begin, begin == 0), {})
            same[segment, upto] = Lost(segment, begin, upto - begin, adapter)
    return [list(own.values()) for own in groups.values()]
