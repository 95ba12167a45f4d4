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

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from w2s_chains.backend.kv.layers import State
from w2s_chains.backend.kv.store import Ints, Slots


class Segment:
    """A run of tokens with one model's log-probabilities, keys and values.

    Attributes:
        parent: The segment that this one continues; None at position 0.
        start: Position of the segment's first token.
        ids: The segment's tokens.
        logprobs: log p of each token given all before it, in nats; empty for a prompt, which is
            not scored.
        kv: The slots of its keys and values, in runs that siblings may share; None until the
            segment is read, and always None if nothing can follow it.
        states: The states of recurrent layers, by the number of tokens of the path before them.
        tip: The ``Batch`` that can go on with this path as one of its rows, and the row; else None.
    """

    __slots__ = ("__weakref__", "ids", "kv", "logprobs", "parent", "start", "states", "tip")

    def __init__(self, parent: Segment | None, start: int, ids: Sequence[int]) -> None:
        assert (parent is None) == (start == 0), "only a root starts at position 0"
        assert parent is None or start <= parent.end
        self.parent = parent
        self.start = start
        self.ids = tuple(ids)
        self.logprobs: tuple[float, ...] = ()
        self.kv: tuple[Slots, ...] | None = None
        self.states: dict[int, State] = {}
        self.tip: tuple[object, int] | None = None

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

    def slots(self, upto: int) -> Iterator[tuple[int, Ints]]:
        """Yield (begin, slots) of the keys and values that cover positions [0, upto)."""
        segment: Segment | None = self
        while segment is not None and upto > 0:
            if upto > segment.kv_start:
                assert segment.kv is not None, "a path is read from the root down"
                begin = segment.kv_start
                for run in segment.kv:
                    if begin < upto:
                        yield begin, run.ids[: upto - begin]
                    begin += len(run.ids)
                upto = segment.kv_start
            segment = segment.parent


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
