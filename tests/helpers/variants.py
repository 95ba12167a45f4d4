"""Settings and parts that a cache must tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChatW2S,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
)


@dataclass
class ByLength:
    """Equal ones cannot be hashed."""

    sign: float = 1.0

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.sign * len(h.response) for h in hypotheses]


class Slotted:
    """No weak reference to it is possible."""

    __slots__ = ("sign",)

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.sign * len(h.response) for h in hypotheses]


class Weighted(LogRatioScorer):
    """Has the pair of a log-ratio and something of its own."""

    def __init__(self, pair: GuidePair, weight: float) -> None:
        super().__init__(pair)
        self.weight = weight

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.weight * value for value in super().score(hypotheses)]


class Mine(Sampling):
    """Has the same ``type`` as its base, but may search otherwise."""


def variants(llm: W2SLLM | ChatW2S, pair: GuidePair) -> dict[str, dict[str, Any]]:
    other = HuggingFaceProposer(tiny.llama(320, seed=9), tiny.byte_tokenizer())
    return {
        "max_tokens": {"max_tokens": 7},
        "temperature": {"temperature": 0.0},
        "top_p": {"top_p": 0.4},
        "top_k": {"top_k": 3},
        "min_p": {"min_p": 0.2},
        "repetition_penalty": {"repetition_penalty": 2.0},
        "stop": {"stop": ("e", "a")},
        "other stop": {"stop": ("e",)},
        "seed": {"seed": 1},
        "n": {"n": 2},
        "strategy": {"strategy": BestOfN(n=4)},
        "strategy parameter": {"strategy": BestOfN(n=5)},
        "strategy class": {"strategy": Sampling()},
        "strategy class with the same type": {"strategy": Mine()},
        "proposer": {"proposer": other},
        "swapped": {"scorer": LogRatioScorer(pair.swapped())},
        "guides": {"guides": pair.swapped()},
        "no scorer": {"scorer": None},
        "weighted": {"scorer": Weighted(pair, 1.0)},
        "weighted otherwise": {"scorer": Weighted(pair, -1.0)},
        "unhashable": {"scorer": ByLength(1.0)},
        "unhashable and equal": {"scorer": ByLength(1.0)},
        "slotted": {"scorer": Slotted(1.0)},
        "slotted too": {"scorer": Slotted(1.0)},
    }
