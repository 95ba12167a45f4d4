"""``TraceBuilder``: build a ``Trace`` from the events of a search while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from w2s_chains.core.events import Committed, Event, Finished, Grown, Scored
from w2s_chains.tracing.trace import TokenRatio, Trace, TracedAnswer, TraceNode, TraceRound

MOST_NODES = 10_000
MOST_CHARACTERS = 4_000_000
"""Beyond either, candidates are forgotten as soon as the search lets go of them."""


class TraceBuilder:
    """Takes the events of one traced search, and gives its tree at any time.

    Memory is bounded by the limits, what the search itself holds, and the path of its answer.
    """

    def __init__(
        self,
        *,
        most_nodes: int = MOST_NODES,
        most_characters: int = MOST_CHARACTERS,
        **about: Any,
    ) -> None:
        """Begin a trace.

        Args:
            most_nodes: Nodes that are remembered at least.
            most_characters: Characters of their texts that are remembered at least.
            **about: ``prompt``, ``model``, ``strategy``, ``sampling`` and ``seed`` of the trace.
        """
        self._about = about
        self._most = most_nodes, most_characters
        self._begin = time.perf_counter()
        root = TraceNode(id=0, round=0, text="", tokens=0)
        self._nodes: dict[int, TraceNode] = {0: root}
        self._children: Counter[int] = Counter()
        self._characters = 0
        self._scores: dict[int, float] = {}
        self._rounds: list[_Round] = []
        self._committed = 0
        self._forgotten = 0
        self._finished: Finished | None = None
        self._seconds = 0.0

    def take(self, event: Event) -> None:
        """Add an event; those that tell nothing of the tree change nothing."""
        if isinstance(event, Grown):
            self._grow(event)
        elif isinstance(event, Scored):
            self._scores.update(zip(event.ids, event.scores, strict=False))
            for id, found in event.tokens.items():
                ratios = zip(found.texts, found.ratios, strict=True)
                self._nodes[id] = self._nodes[id].model_copy(
                    update={
                        "ratios_from": found.begin,
                        "ratios": tuple(TokenRatio(text=text, ratio=r) for text, r in ratios),
                    }
                )
        elif isinstance(event, Committed):
            self._committed += len(event.text)
        elif isinstance(event, Finished):
            self._finished = event
        else:
            return
        self._seconds = time.perf_counter() - self._begin
        if self._rounds:
            self._rounds[-1].seconds = self._seconds
            self._rounds[-1].committed = self._committed

    def _grow(self, event: Grown) -> None:
        for new in event.candidates:
            self._nodes[new.id] = TraceNode(
                id=new.id,
                parent=new.parent,
                round=event.round,
                text=new.text.encode("utf-8", "replace").decode(),  # no halves of a character
                tokens=new.tokens,
                logprob=new.logprob,
                finish_reason=new.finish_reason,
            )
            self._children[new.parent] += 1
            self._characters += len(new.text)
        self._rounds.append(_Round(event))
        nodes, characters = self._most
        if len(self._nodes) > nodes or self._characters > characters:
            self._forget(event.dropped)

    def _forget(self, dropped: Sequence[int]) -> None:
        for id in sorted(dropped, reverse=True):  # children before their parents
            if id in self._nodes and not self._children[id]:
                node = self._nodes.pop(id)
                assert node.parent is not None
                self._children[node.parent] -= 1
                self._characters -= len(node.text)
                self._scores.pop(id, None)
                self._forgotten += 1

    def trace(self) -> Trace:
        """Return the tree so far."""
        answer = None
        chosen: set[int] = set()
        if (finished := self._finished) is not None:
            at = finished.id
            while at is not None:
                chosen.add(at)
                at = self._nodes[at].parent
            answer = TracedAnswer(**asdict(finished))
        nodes = [
            node.model_copy(
                update={"score": self._scores.get(id), "state": self._state(node, id in chosen)}
            )
            for id, node in self._nodes.items()
        ]
        return Trace(
            **self._about,
            answer=answer,
            nodes=tuple(nodes),
            rounds=tuple(own.traced(self._nodes) for own in self._rounds),
            seconds=self._seconds,
            forgotten=self._forgotten,
        )

    def _state(self, node: TraceNode, chosen: bool) -> str:
        if chosen:
            return "answer"
        if self._children[node.id] or node.id == 0:
            return "kept"
        return "rejected" if node.finish_reason is None else "finished"


class _Round:
    """A round whose end is not known yet."""

    def __init__(self, event: Grown) -> None:
        self.number = event.round
        self.expanded = tuple(dict.fromkeys(new.parent for new in event.candidates))
        self.proposed = tuple(new.id for new in event.candidates)
        self.read_tokens, self.guide_tokens = event.read_tokens, event.guide_tokens
        self.committed = 0
        self.seconds = 0.0

    def traced(self, nodes: dict[int, TraceNode]) -> TraceRound:
        return TraceRound(
            number=self.number,
            expanded=tuple(id for id in self.expanded if id in nodes),
            proposed=tuple(id for id in self.proposed if id in nodes),
            committed=self.committed,
            seconds=self.seconds,
            read_tokens=self.read_tokens,
            guide_tokens=self.guide_tokens,
        )
