"""``Tree``: the nodes of a traced search as numbers, for events that hold no nodes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from weakref import WeakKeyDictionary

from w2s_chains.core.contracts import TokenScores
from w2s_chains.core.events import Candidate, Grown, GuidedTokens
from w2s_chains.core.hypothesis import Hypothesis


class Tree:
    """Numbers the nodes of one search. It keeps none of them alive."""

    def __init__(self, root: Hypothesis) -> None:
        self._ids: WeakKeyDictionary[Hypothesis, int] = WeakKeyDictionary({root: 0})
        self._tokens: WeakKeyDictionary[Hypothesis, tuple[str, ...]] = WeakKeyDictionary()
        self._held = {0}
        self._next = 1

    def id(self, hypothesis: Hypothesis) -> int:
        """Return the number of a node, or of its closest ancestor that has one."""
        return self._ids.get(self._known(hypothesis), 0)

    def grown(self, round_: int, children: Iterable[Hypothesis]) -> Grown:
        """Number the children of a round and describe them."""
        new: list[Candidate] = []
        usage = None
        for child in children:
            usage = child.usage
            if child in self._ids:  # a chunk that may be empty
                continue
            parent = self._known(child)
            own = [node for node in child.ancestors() if node.depth > parent.depth]
            logprobs = [node.logprobs for node in own]
            new.append(
                Candidate(
                    id=self._next,
                    parent=self._ids.get(parent, 0),
                    text=child.text_from(parent.n_chars),
                    tokens=child.n_tokens - parent.n_tokens,
                    logprob=None if None in logprobs else sum(map(sum, filter(None, logprobs))),
                    finish_reason=child.finish_reason,
                )
            )
            self._ids[child] = self._next
            self._next += 1
        held = set(self._ids.values())
        dropped = self._held - held
        self._held = held
        return Grown(
            round=round_,
            candidates=tuple(new),
            dropped=tuple(sorted(dropped)),
            read_tokens=None if usage is None else usage.read_tokens or None,
            guide_tokens=0 if usage is None else usage.guide_tokens,
        )

    def guided(self, hypothesis: Hypothesis, found: TokenScores) -> GuidedTokens:
        """Return what the guides think of the tokens that they had not for the parent."""
        texts = tuple(found.texts)
        above = (node for node in hypothesis.ancestors() if node in self._tokens)
        before = self._tokens.get(next(above, hypothesis), ())
        same = takewhile(lambda pair: pair[0] == pair[1], zip(texts, before, strict=False))
        first = sum(1 for _ in same)
        self._tokens[hypothesis] = texts
        return GuidedTokens(
            begin=sum(map(len, texts[:first])),
            texts=texts[first:],
            ratios=tuple(found.ratios[first:]),
        )

    def _known(self, hypothesis: Hypothesis) -> Hypothesis:
        """Return the closest node with a number, or the root; strategies may make nodes, too.

        Long chunks are sampled in several nodes.
        """
        numbered = (node for node in hypothesis.ancestors() if node in self._ids)
        return next(numbered, hypothesis.origin)
