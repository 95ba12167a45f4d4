"""``Sampling`` and ``EmulatedFineTuning``: sample one answer, without selection."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Weight
from w2s_chains.search.base import Search, SearchStrategy, commit, expand

STREAM_TOKENS = 16
"""Tokens between two commits. The value does not change the answer, since a path keeps its random
stream across chunks."""


def sample_one(root: Hypothesis, steering: float) -> Search:
    """Sample one answer and commit it as it grows."""
    answer = root
    while not answer.finished:
        [answer] = yield from expand([answer], 1, STREAM_TOKENS, steering, may_be_whole=True)
        yield from commit(answer)
    return answer


class Sampling(SearchStrategy):
    """Sample one answer from the frozen model without guidance: the baseline."""

    type: Literal["sampling"] = "sampling"

    @property
    def needs_scorer(self) -> bool:
        return False

    def kl_bound(self, rounds: int) -> float:
        return 0.0

    def search(self, root: Hypothesis) -> Search:
        return (yield from sample_one(root, steering=0.0))


class EmulatedFineTuning(SearchStrategy):
    """Sample every token from softmax(log p_base + beta * (log p_tuned - log p_untuned)).

    Mitchell et al. (2023), "An Emulator for Fine-Tuning Large Language Models using Small Language
    Models"; the baseline "EFT" of Zhou et al. (2024). The guides must share the proposer's
    vocabulary.

    With ``draft_tokens`` the tuned guide writes so many tokens ahead, and the proposer and the
    untuned guide read them in one pass; those that do not fit are replaced (speculative sampling,
    Leviathan et al., 2023; with beta = 1, Li et al., 2025, arXiv 2508.15044). The distribution of
    answers is the same, with fewer passes of the proposer, one after another, and some more rows.

    Attributes:
        beta: Weight of the guides; 0 is plain sampling.
        draft_tokens: Tokens that the tuned guide drafts at a time; 0 for none. The more it agrees
            with what is sampled, the more tokens pay; 4 is a usual number.
    """

    type: Literal["emulated_fine_tuning"] = "emulated_fine_tuning"
    beta: Weight = 1.0
    draft_tokens: int = Field(default=0, ge=0, le=64)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"drafts"} if self.draft_tokens else ())

    @property
    def token_steering(self) -> float:
        return self.beta

    @property
    def needs_scorer(self) -> bool:
        return False

    def kl_bound(self, rounds: int) -> float:
        return 0.0

    def search(self, root: Hypothesis) -> Search:
        if not self.draft_tokens:
            return (yield from sample_one(root, steering=self.beta))
        answer = root
        while not answer.finished:
            chunk = self.draft_tokens + 1
            [answer] = yield from expand([answer], 1, chunk, self.beta, drafts=True)
            yield from commit(answer)
        return answer
