"""One of each part that another package may bring; ``pyproject.toml`` gives them their names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from w2s_chains import BaseGuidePair, Expand, Hypothesis, SearchStrategy
from w2s_chains.proposers import ProposerConfig
from w2s_chains.scorers import ScorerConfig
from w2s_chains.search.base import Search, distinct, expand, score, top


class TwoRounds(SearchStrategy):
    """The best of n openings, then the best of n endings."""

    type: Literal["two_rounds"] = "two_rounds"
    n: int = Field(default=4, ge=1)

    def search(self, root: Hypothesis) -> Search:
        openings = distinct((yield from expand([root], self.n, chunk_tokens=10)))
        [best] = top(openings, (yield from score(openings)), 1)
        if best.finished:
            return best
        endings = distinct((yield from expand([best], self.n, chunk_tokens=None)))
        return top(endings, (yield from score(endings)), 1)[0]


class Short(ScorerConfig):
    """The shorter the better: a scorer that needs nothing but the text."""

    type: Literal["short"] = "short"
    weight: float = 1.0

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [-self.weight * len(h.response) for h in hypotheses]


class WeightedLogRatio(ScorerConfig):
    """log p_tuned - weight * log p_untuned: a scorer that reads the guides."""

    type: Literal["weighted_log_ratio"] = "weighted_log_ratio"
    weight: float = 1.0

    @property
    def needs_guides(self) -> bool:
        return True

    def build(self, guides: BaseGuidePair | None) -> WeightedLogRatioScorer:
        assert guides is not None
        return WeightedLogRatioScorer(guides, self)


class WeightedLogRatioScorer:
    def __init__(self, pair: BaseGuidePair, spec: WeightedLogRatio) -> None:
        self.pair = pair
        self.spec = spec

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        pairs = self.pair.loglikelihoods(hypotheses)
        return [tuned - self.spec.weight * untuned for tuned, untuned in pairs]


class Dice(ProposerConfig):
    """Rolls a die for every word: a proposer that is no language model."""

    type: Literal["dice"] = "dice"
    words: tuple[str, ...] = ("one", "two", "three", "four", "five", "six")

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        return [
            [self._next(r, h, i) for h in r.hypotheses for i in range(r.successors)]
            for r in requests
        ]

    def _next(self, request: Expand, h: Hypothesis, index: int) -> Hypothesis:
        # The answer to a request depends on nothing but the request.
        rng = random.Random(f"{request.seed} {h.prompt.plain_text} {h.response} {index}")
        left = request.sampling.max_tokens - h.n_tokens
        count = left if request.chunk_tokens is None else min(request.chunk_tokens, left)
        text = "".join(f" {rng.choice(self.words)}" for _ in range(count))
        return h.extend(text, finish_reason="length" if count == left else None, n_tokens=count)


def exclaims(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Exclamation marks: a reward that is a plain function."""
    return [float(answer.count("!")) for answer in answers]
