"""``ChunkBeamSearch``: chunk-level beam search (Zhou et al., 2024)."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Literal, Self
from weakref import WeakSet

from pydantic import Field, model_validator

from w2s_chains.core.hypothesis import Hypothesis, common_ancestor
from w2s_chains.core.sampling import MOST_TOKENS, Branches, ChunkTokens, Weight, Whole
from w2s_chains.search.base import Search, SearchStrategy, commit, distinct, expand, score, top
from w2s_chains.search.kl_bounds import best_of, chunk_beam

CommitAfter = Annotated[int, Field(ge=0, le=MOST_TOKENS), Whole]


class ChunkBeamSearch(SearchStrategy):
    """Repeatedly continue W partial answers K times by L tokens, and keep the best W.

    Algorithm 1 of Zhou et al. (2024), with three improvements: a finished answer is kept once and
    never expanded, identical answers count once, and text is committed as soon as the whole beam
    shares it.

    Attributes:
        width: Beam width W, the number of hypotheses kept.
        successors: Children K of each hypothesis; the first step samples W*K from the prompt.
        chunk_tokens: Chunk length L in tokens; None makes the whole answer one chunk.
        steering: Weight of the guides at every sampled token; 0 samples from the proposer alone.
        return_best: "beam" returns the best answer of the last beam, as in the paper; "finished"
            returns the best finished answer ever found.
        commit_after: Most chunks that the search looks ahead before it commits: text that the best
            hypothesis has had for so many chunks becomes final, and hypotheses that differ there
            are dropped. Small values let text stream evenly and search less; None commits only what
            the whole beam shares, which may be nothing until the end.
    """

    type: Literal["chunk_beam"] = "chunk_beam"
    width: Branches = 4
    successors: Branches = 4
    chunk_tokens: ChunkTokens | None = 5
    steering: Weight = 0.0
    return_best: Literal["beam", "finished"] = "beam"
    commit_after: CommitAfter | None = None

    @model_validator(mode="after")
    def _in_chunks(self) -> Self:
        if self.commit_after is not None and self.chunk_tokens is None:
            raise ValueError(
                f"commit_after={self.commit_after} counts chunks, but with chunk_tokens null the "
                "whole answer is one; set chunk_tokens, or leave commit_after out"
            )
        return self

    @property
    def token_steering(self) -> float:
        return self.steering

    @property
    def branches(self) -> int:
        return self.width * self.successors

    @property
    def commits_late(self) -> bool:
        return (self.width > 1 and self.commit_after is None) or self.chunk_tokens is None

    @property
    def scores_partial(self) -> bool:
        return self.chunk_tokens is not None

    def kl_bound(self, rounds: int) -> float:
        if self.chunk_tokens is None:
            return best_of(self.width * self.successors)
        return chunk_beam(self.width, self.successors, rounds)

    def search(self, root: Hypothesis) -> Search:
        beam = [root]
        best: Hypothesis | None = None  # best finished answer so far, only for "finished"
        best_score = float("-inf")
        ends = WeakSet(beam)  # of chunks: a long one is a path of several hypotheses
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
            del children, pool  # free rejected branches and their caches
            ends.update(beam)
            if self.commit_after is not None:
                chunks = (h for h in beam[0].ancestors() if h in ends)
                settled = next(islice(chunks, self.commit_after, None), root)
                beam = [h for h in beam if continues(h, settled)]
                if best is not None and not continues(best, settled):
                    best, best_score = None, float("-inf")
            yield from commit(common_ancestor([*beam, best] if best else beam))
        return best or beam[0]


def continues(hypothesis: Hypothesis, ancestor: Hypothesis) -> bool:
    """Return whether a hypothesis goes on from another one, or is it."""
    return common_ancestor([hypothesis, ancestor]) is ancestor
