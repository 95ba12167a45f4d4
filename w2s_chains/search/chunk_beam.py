"""Chunk-level beam search, the search of the paper."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from w2s_chains.core.hypothesis import Hypothesis, common_ancestor
from w2s_chains.search.base import Search, SearchStrategy, commit, distinct, expand, score, top
from w2s_chains.search.kl_bounds import best_of, chunk_beam


class ChunkBeamSearch(SearchStrategy):
    """Keep the best W partial answers, continue each K times by L tokens, keep the best W again.

    Algorithm 1 of Zhou et al. (2024), with three repairs: a finished answer is carried once and
    never expanded, identical answers count once, and text is committed as soon as the whole beam
    shares it.

    Attributes:
        width: Beam width W, the number of hypotheses kept.
        successors: K, the children of each hypothesis; the first step draws W*K from the prompt.
        chunk_tokens: L, the tokens of a chunk; None for one endless chunk.
        steering: Token-level weight of the guides while a chunk is sampled; 0 samples from the
            proposer alone.
        return_best: "beam" returns the best of the last beam, as the paper does; "finished" the
            best finished answer ever seen.
    """

    type: Literal["chunk_beam"] = "chunk_beam"
    width: int = Field(default=4, ge=1)
    successors: int = Field(default=4, ge=1)
    chunk_tokens: int | None = Field(default=5, ge=1)
    steering: float = Field(default=0.0, allow_inf_nan=False)
    return_best: Literal["beam", "finished"] = "beam"

    @property
    def token_steering(self) -> float:
        return self.steering

    @property
    def branches(self) -> int:
        return self.width * self.successors

    @property
    def scores_partial(self) -> bool:
        return self.chunk_tokens is not None

    def kl_bound(self, rounds: int) -> float:
        if self.chunk_tokens is None:
            return best_of(self.width * self.successors)
        return chunk_beam(self.width, self.successors, rounds)

    def search(self, root: Hypothesis) -> Search:
        beam = [root]
        best: Hypothesis | None = None  # the best finished answer so far, if it is to be returned
        best_score = float("-inf")
        while live := [h for h in beam if not h.finished]:
            successors = self.successors if beam != [root] else self.width * self.successors
            children = yield from expand(live, successors, self.chunk_tokens, self.steering)
            pool = distinct([h for h in beam if h.finished] + children)
            scores = yield from score(pool)
            beam = top(pool, scores, self.width)
            if self.return_best == "finished":
                for candidate, value in zip(pool, scores, strict=True):
                    if candidate.finished and value > best_score:
                        best, best_score = candidate, value
            del children, pool  # rejected branches die here, and their caches with them
            yield from commit(common_ancestor([*beam, best] if best else beam))
        return best or beam[0]
