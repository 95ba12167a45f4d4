"""``TokenSearch``: choose every token among a few candidates, at the price of sampling."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import GREEDY_BELOW, Branches, NotNegative
from w2s_chains.search.base import (
    Search,
    SearchStrategy,
    commit,
    distinct,
    drawn,
    expand,
    random_stream,
    score,
    top,
)
from w2s_chains.search.kl_bounds import chunk_beam


class TokenSearch(SearchStrategy):
    """Sample K candidates for the next token, keep one, and go on.

    All candidates come from one distribution, so the large model reads one row per token of the
    answer, as plain sampling does; the guides may have any vocabulary. This is chunk beam search
    (Zhou et al., 2024, Algorithm 1) with W = 1 and L = 1, and with ``tau`` a softer one: the
    survivor is drawn by softmax(score / tau) among the candidates (sampling-importance-resampling),
    which for large K samples from p_base * (p_tuned / p_untuned)^(1 / tau) at every token.

    Attributes:
        candidates: Number K of tokens to sample and to score.
        distinct: Draw the candidates without replacement (Gumbel top-k, Kool et al., 2019), so that
            all K differ. Among few likely tokens there are unlikely ones, so set the sampling
            parameter ``min_p`` (0.05 to 0.1) as well. Needs a proposer that can draw them: a model
            in process, or a server that tells ``top_logprobs``.
        tau: Temperature of the choice, in nats; 0 keeps the candidate with the best score. Small
            values follow the score, large ones the frozen model.
    """

    type: Literal["token_search"] = "token_search"
    candidates: Branches = 8
    distinct: bool = False
    tau: NotNegative = 0.0

    @property
    def branches(self) -> int:
        return self.candidates

    @property
    def commits_late(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"distinct"} if self.distinct else ())

    def kl_bound(self, rounds: int) -> float | None:
        # Without replacement, an unlikely token may be among the candidates every time.
        return None if self.distinct else chunk_beam(1, self.candidates, rounds)

    def search(self, root: Hypothesis) -> Search:
        answer = root
        numbers = yield from random_stream()
        while not answer.finished:
            children = yield from expand([answer], self.candidates, 1, distinct=self.distinct)
            pool = distinct(children)
            count = Counter(h.identity for h in (pool if self.distinct else children))
            scores = yield from score(pool)
            if self.tau >= GREEDY_BELOW:
                # A token that was sampled twice has two chances.
                weights = [
                    math.log(count[candidate.identity]) + value / self.tau
                    for candidate, value in zip(pool, scores, strict=True)
                ]
                answer = drawn(pool, weights, numbers)
            else:
                [answer] = top(pool, scores, 1)
            del children, pool  # free rejected branches and their caches
            yield from commit(answer)
        return answer
