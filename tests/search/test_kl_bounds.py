"""Bounds of KL(search || frozen model), checked against searches that can be counted."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s_chains import (
    DVTS,
    AdaptiveBestOfN,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Expand,
    Hypothesis,
    ParticleFilter,
    Sampling,
    SearchStrategy,
    SpeculativeRejection,
)
from w2s_chains.search import kl_bounds as divergence
from w2s_chains.testing import drive

LETTERS, ODDS, LENGTH = "abcd", (0.5, 0.3, 0.15, 0.05), 3
END = 0.2
RUNS = 1500
UNCERTAIN = 0.05
"""What so many runs leave open, the bias of frequencies included."""


def draw(rng: random.Random):
    """A toy model: letters by ``ODDS``; an answer ends early with probability ``END``."""

    def propose(ask: Expand) -> list[Hypothesis]:
        children = []
        for h in ask.hypotheses:
            for _ in range(ask.successors):
                text, reason = "", None
                while reason is None and len(text) < (ask.chunk_tokens or LENGTH):
                    if h.response + text and rng.random() < END:
                        reason = "eos"
                        break
                    text += rng.choices(LETTERS, ODDS)[0]
                    if len(h.response) + len(text) == LENGTH:
                        reason = "length"
                children.append(h.extend(text, tuple(map(ord, text)), finish_reason=reason))
        return children

    return propose


def probability(text: str) -> float:
    letters = math.prod(ODDS[LETTERS.index(letter)] for letter in text)
    goes_on = (1 - END) ** (len(text) - 1)
    return letters * goes_on * (END if len(text) < LENGTH else 1.0)


def value(kind: int, text: str) -> float:
    if kind == 0:  # likes what is improbable, so that the search has to go far
        return -math.log(probability(text)) if len(text) == LENGTH else len(text)
    return random.Random(f"{kind}/{text}").random()


def measured(strategy: SearchStrategy, kind: int) -> tuple[float, float]:
    """KL of the answers' frequencies to the toy model, and the mean of the reported bound."""
    rng = random.Random(kind)
    found: Counter[str] = Counter()
    bounds = 0.0
    for _ in range(RUNS):
        trace = drive(strategy, draw(rng), lambda h: value(kind, h.response))
        found[trace.answer.response] += 1
        rounds = len([node for node in trace.answer.path if node.parent is not None])
        bound = strategy.kl_bound(rounds)
        assert bound is not None
        bounds += bound / RUNS
    kl = sum(n / RUNS * math.log(n / RUNS / probability(text)) for text, n in found.items())
    return kl, bounds


SEARCHES = [
    BestOfN(n=8),
    ChunkBeamSearch(width=1, successors=4, chunk_tokens=1),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=1),
    ChunkBeamSearch(width=3, successors=1, chunk_tokens=2),
    ChunkBeamSearch(width=2, successors=3, chunk_tokens=2, return_best="finished"),
    ChunkBeamSearch(width=2, successors=3, chunk_tokens=None),
    ParticleFilter(particles=3, chunk_tokens=1, tau=0.1, resample_below=1.0),
    DVTS(subtrees=3, successors=2, chunk_tokens=1),
    AdaptiveBestOfN(n=8, wave=3, min_gain=0.3),
    SpeculativeRejection(n=8, alpha=0.5, chunk_tokens=1),
]


@pytest.mark.parametrize("strategy", SEARCHES, ids=repr)
def test_no_search_goes_farther_than_its_bound(strategy: SearchStrategy) -> None:
    kind = SEARCHES.index(strategy) % 3
    kl, bound = measured(strategy, kind)
    assert 0 < kl < bound + UNCERTAIN


def test_a_third_of_a_bound_is_none() -> None:
    """Control: the measurement can find a bound that is too low."""
    kl, bound = measured(ChunkBeamSearch(width=1, successors=2, chunk_tokens=1), 0)
    assert kl > 0.3 * bound + UNCERTAIN
    kl, _ = measured(BestOfN(n=4), 0)
    assert kl > divergence.best_of(2) + UNCERTAIN


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_bounds_grow_with_the_search(width: int, successors: int, chunks: int) -> None:
    bound = divergence.chunk_beam(width, successors, chunks)
    assert 0 <= bound <= math.log(width) + chunks * math.log(successors) + 1e-9
    assert divergence.chunk_beam(width, successors, chunks + 1) >= bound
    assert divergence.best_of(successors + 1) > divergence.best_of(successors) >= 0


def test_bounds_by_hand() -> None:
    assert divergence.best_of(1) == 0
    assert divergence.best_of(16) == pytest.approx(math.log(16) - 15 / 16)
    assert divergence.chunk_beam(4, 4, 10) == pytest.approx(11 * math.log(4))
    assert divergence.population(4, 10) == pytest.approx(10 * math.log(4))
    assert divergence.chunk_beam(1, 4, 10) == pytest.approx(10 * (math.log(4) - 0.75))
    beam = ChunkBeamSearch(width=2, successors=3, chunk_tokens=5)
    assert beam.kl_bound(4) == divergence.chunk_beam(2, 3, 4)
    whole = beam.model_copy(update={"chunk_tokens": None})
    assert whole.kl_bound(1) == divergence.best_of(6), "all six are samples of the prompt"


def test_sampling_stays_where_it_is() -> None:
    """Steering is counted by ``drift``, so what selection adds is nothing."""
    assert Sampling().kl_bound(5) == EmulatedFineTuning().kl_bound(5) == 0.0
    assert BestOfN(n=2).kl_bound(1) > 0, "control"
