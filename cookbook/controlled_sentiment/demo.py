"""The main job in one run: the same prompts unguided, best-of-16 and chunk beam, side by side.

    python -m cookbook.controlled_sentiment.demo --prompts 12
    python -m cookbook.controlled_sentiment.demo --prompts 48 --seeds 3 --controls

A frozen SmolLM2 (135M) goes on with the first words of held-out movie reviews. Two guides of 0.08M
parameters each pull it towards praise. Two judges that no guide has seen say whether it worked.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cookbook.controlled_sentiment.data import prompts
from cookbook.controlled_sentiment.gold import GoldReward, vader
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    GuidePair,
    LogRatioScorer,
    Sampling,
    SearchStrategy,
)

TUNED, UNTUNED = "embedded:reviews-tuned", "embedded:reviews-untuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one strategy made of all prompts; arrays are [prompts, seeds]."""

    name: str
    texts: list[list[str]]
    guide: np.ndarray
    gold: np.ndarray
    vader: np.ndarray
    proposed: np.ndarray
    seconds: float

    @property
    def repetition(self) -> float:
        """1 - distinct / total words, mean over answers: shows over-optimisation."""
        words = [text.split() for own in self.texts for text in own]
        return float(np.mean([1 - len(set(w)) / max(len(w), 1) for w in words]))


def load() -> W2SLLM:
    """The embedded model, steered by the embedded guides."""
    return W2SLLM.from_pretrained(
        "embedded:smollm2-135m-instruct",
        tuned=TUNED,
        untuned=UNTUNED,
        proposer_template="Here is a movie review: {prompt}",
        strategy=ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
        max_tokens=50,
        temperature=0.7,
        progress=True,
    )


def run(
    llm: W2SLLM,
    gold: GoldReward,
    name: str,
    strategy: SearchStrategy,
    starts: Sequence[str],
    seeds: int,
) -> Result:
    """Answer every prompt with every seed, and judge the answers."""
    n = len(starts)
    began = time.perf_counter()
    generations = [
        llm.generate(list(starts), strategy=strategy, seed=seed).generations
        for seed in range(seeds)
    ]
    seconds = time.perf_counter() - began
    texts = [[own[i][0].text for own in generations] for i in range(n)]
    reviews = [start + text for start, own in zip(starts, texts, strict=True) for text in own]

    def info(key: str) -> np.ndarray:
        rows = [[(own[i][0].generation_info or {})[key] for own in generations] for i in range(n)]
        return np.array(rows, dtype=float)

    return Result(
        name=name,
        texts=texts,
        guide=info("score"),
        gold=np.reshape(gold.score(reviews), (n, seeds)),
        vader=np.reshape(vader(reviews), (n, seeds)),
        proposed=info("proposed_tokens"),
        seconds=seconds,
    )


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and its 95% interval by bootstrap over prompts (10,000 draws, seed 0)."""
    per_prompt = values.mean(axis=1)
    draws = np.random.default_rng(0).integers(0, len(per_prompt), (10_000, len(per_prompt)))
    low, high = np.percentile(per_prompt[draws].mean(axis=1), [2.5, 97.5])
    return float(per_prompt.mean()), float(low), float(high)


def show(results: Sequence[Result], starts: Sequence[str], examples: int) -> None:
    """Print some answers side by side, then the table."""
    for i in range(min(examples, len(starts))):
        print(f"\n» {starts[i]} ...")
        for result in results:
            text = " ".join(result.texts[i][0].split())
            print(f"  {result.name:17s} gold {result.gold[i, 0]:+.2f}  {text}")
    base = results[0]
    spread = base.gold.std(ddof=1)
    print(
        f"\n{len(starts)} held-out prompts x {base.gold.shape[1]} seeds. Gold reward: log-odds of "
        f"a classifier on other reviews;\nSD of the base's samples {spread:.2f}. In brackets: 95% "
        "interval of the paired difference to base, bootstrap over prompts.\n"
    )
    print(
        f"{'strategy':18s}{'guide score':>12s}{'gold':>7s}{'difference to base':>26s}{'in SD':>7s}"
        f"{'VADER':>7s}{'repeated':>9s}{'tokens':>8s}{'seconds':>9s}"
    )
    for result in results:
        mean, low, high = interval(result.gold - base.gold)
        difference = "" if result is base else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
        print(
            f"{result.name:18s}{result.guide.mean():+12.2f}{result.gold.mean():+7.2f}"
            f"{difference:>26s}{mean / spread:+7.2f}{result.vader.mean():+7.2f}"
            f"{result.repetition:9.2f}{result.proposed.mean():8.0f}{result.seconds:9.1f}"
        )


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=12, help="held-out prompts")
    parser.add_argument("--seeds", type=int, default=1, help="answers per prompt and strategy")
    parser.add_argument("--examples", type=int, default=3, help="prompts whose answers are shown")
    parser.add_argument("--controls", action="store_true", help="also swapped and equal guides")
    options = parser.parse_args()

    llm, gold, starts = load(), GoldReward.fit(), prompts(options.prompts)
    beam = ChunkBeamSearch(width=4, successors=4, chunk_tokens=5)
    plan: list[tuple[str, W2SLLM, SearchStrategy]] = [
        ("base", llm, Sampling()),
        ("best-of-16", llm, BestOfN(n=16)),
        ("chunk beam 4,4,5", llm, beam),
    ]
    if options.controls:
        pair = GuidePair.from_pretrained(TUNED, UNTUNED)
        for name, guides in {
            "guides swapped": pair.swapped(),
            "guides equal": GuidePair(pair.tuned, pair.tuned),
        }.items():
            plan.append((name, llm.model_copy(update={"scorer": LogRatioScorer(guides)}), beam))
    results = [
        run(own, gold, name, strategy, starts, options.seeds) for name, own, strategy in plan
    ]
    show(results, starts, options.examples)


if __name__ == "__main__":
    main()
