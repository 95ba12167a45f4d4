"""``DVTS``: diverse verifier tree search (Beeching, Tunstall and Rush, 2024)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Literal

from w2s_chains.core.asks import Ask
from w2s_chains.core.hypothesis import Hypothesis, common_ancestor
from w2s_chains.core.sampling import Branches, ChunkTokens, Weight
from w2s_chains.search.base import Search, SearchStrategy, commit, distinct, expand, score
from w2s_chains.search.kl_bounds import best_of, chunk_beam


class DVTS(SearchStrategy):
    """Grow S subtrees side by side, keep the best chunk of each, and return the best answer.

    Beeching, Tunstall and Rush (2024), "Scaling test-time compute with open models", Hugging Face,
    section "DVTS": their N is S*K here, their M is K. A subtree is a beam search of width 1, and no
    subtree can crowd out another. In contrast to theirs, a chunk has L tokens instead of one
    reasoning step, its score is the scorer's for the whole text so far, and identical candidates of
    a subtree count once.

    Subtrees part at the prompt. Unless there is only one, text is streamed when all have ended.

    Attributes:
        subtrees: Number S of independent subtrees.
        successors: Candidates K for the next chunk of each subtree, of which the best one is kept.
        chunk_tokens: Chunk length L in tokens.
        steering: Weight of the guides at every sampled token; 0 samples from the proposer alone.
    """

    type: Literal["dvts"] = "dvts"
    subtrees: Branches = 4
    successors: Branches = 4
    chunk_tokens: ChunkTokens = 5
    steering: Weight = 0.0

    @property
    def token_steering(self) -> float:
        return self.steering

    @property
    def branches(self) -> int:
        return self.subtrees * self.successors

    @property
    def commits_late(self) -> bool:
        return self.subtrees > 1

    def kl_bound(self, rounds: int) -> float:
        if self.subtrees == 1:
            return chunk_beam(1, self.successors, rounds)
        # A subtree answers y with probability R(y) <= K^T P(y), where T is the number of chunks.
        # Its answers are independent and the best one is returned, so that
        # KL(Q || P) = KL(Q || R) + E[ln R / P] <= best_of(S) + E[T] ln K.
        return best_of(self.subtrees) + rounds * math.log(self.successors)

    def search(self, root: Hypothesis) -> Search:
        live = [root]
        best: list[tuple[float, Hypothesis]] = []  # the best finished answer, once there is one
        while live:
            successors = self.successors * (self.subtrees if live == [root] else 1)
            children = yield from expand(live, successors, self.chunk_tokens, self.steering)
            kept = yield from best_of_each(children, self.successors)
            live = [tip for _, tip in kept if not tip.finished]
            ended = [(value, tip) for value, tip in kept if tip.finished]
            best = sorted([*best, *ended], key=itemgetter(0), reverse=True)[:1]
            del children, kept, ended  # free rejected branches and their caches
            yield from commit(common_ancestor([*live, *(tip for _, tip in best)]))
        return best[0][1]


def best_of_each(
    children: Sequence[Hypothesis], group: int
) -> Generator[Ask, list[float], list[tuple[float, Hypothesis]]]:
    """Score the children; return the best of each ``group`` consecutive ones, with its score."""
    pools = [distinct(children[i : i + group]) for i in range(0, len(children), group)]
    scores = iter((yield from score([child for pool in pools for child in pool])))
    own = [zip(islice(scores, len(pool)), pool, strict=True) for pool in pools]
    return [max(pairs, key=itemgetter(0)) for pairs in own]
