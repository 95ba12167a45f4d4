"""``SpeculativeRejection``: best-of-N that gives up unpromising answers (Sun et al., 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from w2s_chains.core.hypothesis import Hypothesis, common_ancestor
from w2s_chains.core.sampling import Branches, ChunkTokens, Weight
from w2s_chains.search.base import Search, SearchStrategy, commit, expand, score
from w2s_chains.search.kl_bounds import best_of


class SpeculativeRejection(SearchStrategy):
    """Grow N answers, reject the worst share of them every L tokens, and return the best.

    Sun et al. (2024), "Fast Best-of-N Decoding via Speculative Rejection", Algorithm 1. Theirs
    starts with as many answers as the memory holds, and rejects when it is full; ours starts with N
    and rejects after every L tokens, so that an answer does not depend on the machine. A finished
    answer is not rejected, and does not count among those that are. At least one unfinished answer
    goes on.

    Attributes:
        n: Number of answers to begin with.
        alpha: Share of the unfinished answers to reject each time, rounded down; 0 is best-of-N.
        chunk_tokens: Tokens L between two rejections.
        steering: Weight of the guides at every sampled token; 0 samples from the proposer alone.
    """

    type: Literal["speculative_rejection"] = "speculative_rejection"
    n: Branches = 16
    alpha: float = Field(default=0.5, ge=0.0, lt=1.0)
    chunk_tokens: ChunkTokens = 16
    steering: Weight = 0.0

    @property
    def token_steering(self) -> float:
        return self.steering

    @property
    def branches(self) -> int:
        return self.n

    def kl_bound(self, rounds: int) -> float:
        # The answer is one of n samples, whether or not all of them are grown to their ends.
        return best_of(self.n)

    def search(self, root: Hypothesis) -> Search:
        pool = yield from expand([root], self.n, self.chunk_tokens, self.steering)
        while True:
            pool = self.survivors(pool, (yield from score(pool)))
            yield from commit(common_ancestor(pool))
            live = [h for h in pool if not h.finished]
            if not live:
                return pool[0]
            grown = iter((yield from expand(live, 1, self.chunk_tokens, self.steering)))
            pool = [h if h.finished else next(grown) for h in pool]
            del grown  # it would keep rejected answers alive

    def survivors(self, pool: Sequence[Hypothesis], scores: Sequence[float]) -> list[Hypothesis]:
        """Return what is not rejected, in order: unfinished answers and the best finished one."""
        ranked = sorted(range(len(pool)), key=lambda i: -scores[i])
        live = [i for i in ranked if not pool[i].finished]
        ended = [i for i in ranked if pool[i].finished]
        kept = live[: len(live) - math.floor(self.alpha * len(live))] + ended[:1]
        return [pool[i] for i in sorted(kept)]
