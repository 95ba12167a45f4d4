"""``BestOfN``: sample N answers and return the best."""

from __future__ import annotations

from typing import Literal

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Branches, Weight
from w2s_chains.search.base import Search, SearchStrategy, distinct, expand, score, top
from w2s_chains.search.kl_bounds import best_of


class BestOfN(SearchStrategy):
    """Sample N whole answers and return the best.

    Equivalent to ``ChunkBeamSearch(width=1, successors=n, chunk_tokens=None)`` with the same seed.

    Attributes:
        n: Number of answers to sample.
        steering: Weight of the guides at every sampled token; 0 samples from the proposer alone.
    """

    type: Literal["best_of_n"] = "best_of_n"
    n: Branches = 4
    steering: Weight = 0.0

    @property
    def token_steering(self) -> float:
        return self.steering

    @property
    def branches(self) -> int:
        return self.n

    @property
    def scores_partial(self) -> bool:
        return False

    def kl_bound(self, rounds: int) -> float:
        return best_of(self.n)

    def search(self, root: Hypothesis) -> Search:
        answers = distinct((yield from expand([root], self.n, None, self.steering)))
        scores = yield from score(answers)
        return top(answers, scores, 1)[0]
