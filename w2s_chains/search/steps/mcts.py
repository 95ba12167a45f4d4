"""``MCTS``: Monte Carlo tree search over chunks, after W2S-AlignTree (Ding et al., 2025)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from w2s_chains.core.asks import Ask
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Branches, ChunkTokens, NotNegative
from w2s_chains.search.base import Search, SearchStrategy, commit, distinct, expand, relative, score


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """A partial answer in the tree, and what the search knows of it.

    Attributes:
        hypothesis: The partial answer.
        value: The best score per token of a leaf below it, or its own while it is a leaf.
        prior: Its share in its siblings' exp(mean log p of the chunk's tokens).
        visits: How often it was evaluated or passed through.
        entropy: Estimated entropy of the token after it, in nats.
        children: Its continuations; none while it is a leaf.
    """

    hypothesis: Hypothesis
    value: float = 0.0
    prior: float = 1.0
    visits: int = 1
    entropy: float = 0.0
    children: list[Node] = field(default_factory=list["Node"])


class MCTS(SearchStrategy):
    """Spend rounds on the most promising partial answers, then take the most visited chunk.

    After W2S-AlignTree (Ding et al., 2025, arXiv 2511.11518). As in its authors' code, an iteration
    goes from the root to a leaf by the largest PUCT value with an entropy bonus::

        Q(child) + exploration * prior(child) * sqrt(visits) / (1 + visits(child))
            * (1 + entropy_weight * entropy)

    where visits and entropy are the parent's, and the prior is the geometric mean of the
    probabilities of the chunk's tokens under the frozen model. It continues the leaf K times by L
    tokens, scores these children without any rollout, and backs up the maximum: the strategy itself
    chooses among continuations, so an answer is worth its best one, and a mean would count bad
    samples against it.

    We differ in this. Q is the score per token, so that long texts have no advantage. The priors of
    siblings are normalised, and uniform where the proposer reports no ``logprobs``. The entropy of
    the token after a node, in nats instead of bits, is estimated by the mean of -log p over the
    first tokens of its children, which is exact on average at temperature 1 with
    ``distinct=False``. In that code all iterations start from the prompt, finished answers are not
    visited again, and at last the best of several finished ones is returned. Here ``iterations`` of
    them choose a chunk by its visits (ties by value), it is committed, and its subtree is kept for
    the next chunk, as in AlphaZero (Silver et al., 2017); a finished answer may be visited again,
    and such an iteration costs nothing.

    Attributes:
        iterations: Rounds of K chunks for each committed chunk; 1 is greedy.
        successors: Children K of each expanded node.
        chunk_tokens: Chunk length L in tokens.
        exploration: Weight of the exploration term, in units of the score per token.
        entropy_weight: How much more to explore where the frozen model is uncertain, per nat.
        distinct: Draw children with different first tokens (Gumbel top-k), as the authors' code
            does. Needs a proposer that can.
    """

    type: Literal["mcts"] = "mcts"
    iterations: Branches = 8
    successors: Branches = 4
    chunk_tokens: ChunkTokens = 8
    exploration: NotNegative = 1.5
    entropy_weight: NotNegative = 0.2
    distinct: bool = False

    @property
    def branches(self) -> int:
        return self.successors

    @property
    def commits_late(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"distinct"} if self.distinct else ())

    # No ``kl_bound``: an answer of T chunks is sampled at most K^T P(y) times on average, but T is
    # not known there, and the rounds, many for each chunk, would bound nothing of use.

    def search(self, root: Hypothesis) -> Search:
        node = Node(hypothesis=root, visits=0)
        while not node.hypothesis.finished:
            for _ in range(self.iterations):
                yield from self._iterate(node)
            node = max(node.children, key=lambda child: (child.visits, child.value))
            yield from commit(node.hypothesis)
        return node.hypothesis

    def _iterate(self, root: Node) -> Generator[Ask, Any, None]:
        """Select a leaf, expand and evaluate it, and back up."""
        path = [root]
        while path[-1].children:
            path.append(self._selected(path[-1]))
        leaf = path[-1]
        if not leaf.hypothesis.finished:
            children = yield from expand(
                [leaf.hypothesis], self.successors, self.chunk_tokens, distinct=self.distinct
            )
            leaf.entropy = mean_surprise(leaf.hypothesis, children)
            pool = distinct(children)
            scores = yield from score(pool)
            leaf.children = [
                Node(hypothesis=h, value=value / max(h.n_tokens, 1), prior=prior)
                for h, value, prior in zip(pool, scores, priors(leaf.hypothesis, pool), strict=True)
            ]
        for node in reversed(path):
            node.visits += 1
            if node.children:
                node.value = max(child.value for child in node.children)

    def _selected(self, node: Node) -> Node:
        """Return the child with the largest PUCT value; the first one of equals."""
        bonus = self.exploration * (1 + self.entropy_weight * node.entropy)
        scale = bonus * math.sqrt(node.visits)
        return max(node.children, key=lambda c: c.value + scale * c.prior / (1 + c.visits))


def chunk_logprobs(parent: Hypothesis, child: Hypothesis) -> list[float] | None:
    """Return log p of each token between the two, in nats; None if the proposer says none."""
    found: list[tuple[float, ...]] = []
    for node in child.ancestors():
        if node is parent:
            break
        if not node.logprobs:
            return None
        found.append(node.logprobs)
    return [value for logprobs in reversed(found) for value in logprobs]


def mean_surprise(parent: Hypothesis, children: Sequence[Hypothesis]) -> float:
    """Return the mean of -log p over the first tokens of the children; 0 where none is known."""
    known = [chunk_logprobs(parent, child) for child in children]
    first = [-logprobs[0] for logprobs in known if logprobs]
    return sum(first) / len(first) if first else 0.0


def priors(parent: Hypothesis, children: Sequence[Hypothesis]) -> list[float]:
    """Return the children's shares in exp(mean log p); equal ones if not all report log p."""
    means: list[float] = []
    for child in children:
        logprobs = chunk_logprobs(parent, child)
        if not logprobs:
            return [1 / len(children)] * len(children)
        means.append(sum(logprobs) / len(logprobs))
    weights = relative(means)
    return [weight / sum(weights) for weight in weights]
