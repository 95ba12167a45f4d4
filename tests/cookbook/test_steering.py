"""The claim of the paper on the embedded models: a tiny pair steers the large frozen model.

Slow (minutes): 24 held-out prompts, every control. The judge has seen neither prompts nor guides.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cookbook.controlled_sentiment.data import prompts
from cookbook.controlled_sentiment.demo import TUNED, UNTUNED, Result, interval, load, run
from cookbook.controlled_sentiment.gold import GoldReward
from w2s_chains import BestOfN, ChunkBeamSearch, GuidePair, LogRatioScorer, Sampling

BEAM = ChunkBeamSearch(width=4, successors=4, chunk_tokens=5)


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    llm, gold, starts = load().model_copy(update={"progress": False}), GoldReward.fit(), prompts(24)
    pair = GuidePair.from_pretrained(TUNED, UNTUNED)
    swapped = llm.model_copy(update={"scorer": LogRatioScorer(pair.swapped())})
    equal = llm.model_copy(update={"scorer": LogRatioScorer(GuidePair(pair.tuned, pair.tuned))})
    plan = {
        "base": (llm, Sampling(), starts, 4),
        "best-of-16": (llm, BestOfN(n=16), starts, 1),
        "beam": (llm, BEAM, starts, 1),
        "swapped": (swapped, BEAM, starts[:12], 1),
        "equal": (equal, BEAM, starts[:6], 1),
    }
    made = {
        name: run(own, gold, name, strategy, texts, seeds)
        for name, (own, strategy, texts, seeds) in plan.items()
    }
    torch.set_num_threads(threads)
    return made


def gain(results: dict[str, Result], name: str, over: str = "base") -> tuple[float, float, float]:
    """Mean paired difference of the gold reward and its 95% interval."""
    gold = results[name].gold.mean(1)
    return interval((gold - results[over].gold.mean(1)[: len(gold)])[:, None])


def test_chunk_beam_beats_base_by_a_wide_margin(results):
    spread = results["base"].gold.std(ddof=1)
    mean, low, _ = gain(results, "beam")
    assert mean >= 1.3 * spread
    assert low > 0


def test_chunk_beam_beats_best_of_16_at_the_same_budget(results):
    mean, _, _ = gain(results, "beam", over="best-of-16")
    assert mean > 0
    proposed = [results[name].proposed.mean() for name in ("beam", "best-of-16")]
    assert proposed[0] <= 1.1 * proposed[1]


def test_swapped_guides_steer_below_the_base(results):
    mean, _, high = gain(results, "swapped")
    assert mean < 0
    assert high < gain(results, "beam")[1]


def test_equal_guides_score_exactly_zero(results):
    assert np.all(results["equal"].guide == 0)
    assert np.all(results["beam"].guide != 0)
