"""``AdaptiveBestOfN``: best-of-N that stops once another sample is not worth its price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean
from typing import Literal

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Branches, NotNegative, Weight
from w2s_chains.search.base import Search, SearchStrategy, distinct, expand, score, top
from w2s_chains.search.kl_bounds import best_of


class AdaptiveBestOfN(SearchStrategy):
    """Sample whole answers in waves until another one is not worth ``min_gain``; return the best.

    This is Pandora's problem with equal boxes: every sample costs ``min_gain``, and the best so far
    may be taken at any time. If the distribution of a score X is known, it is optimal to stop once
    E[max(X - best, 0)] < ``min_gain`` (Weitzman, 1979, "Optimal Search for the Best Alternative";
    for best-of-N, Kalayci, Raman and Dughmi, 2025, "Optimal Stopping vs Best-of-N for Inference
    Time Optimization"). It is not known, so we assume that scores are normal, with the mean and the
    variance of the scores so far (``expected_gain``). Kalayci et al. fit an exponential tail and
    stop by an upper confidence bound instead.

    The fit of a small first wave is uncertain: it stops too early where its scores happen to be
    close to each other. Answers of heavier tails than the normal one are stopped too early, too.

    A proposer of another package that cannot number its samples samples the earlier ones of a
    prompt again with every wave (``Expand.first``); plain best-of-N is then often cheaper.

    Attributes:
        n: The most answers to sample.
        wave: Answers sampled at a time. The rule needs at least two.
        min_gain: Expected gain of one more answer below which the search stops, in the scorer's
            unit (nats); 0 never stops early, which is best-of-N.
        steering: Weight of the guides at every sampled token; 0 samples from the proposer alone.
    """

    type: Literal["adaptive_best_of_n"] = "adaptive_best_of_n"
    n: Branches = 16
    wave: Branches = 4
    min_gain: NotNegative = 0.1
    steering: Weight = 0.0

    @property
    def token_steering(self) -> float:
        return self.steering

    @property
    def branches(self) -> int:
        return min(self.wave, self.n)

    @property
    def scores_partial(self) -> bool:
        return False

    def kl_bound(self, rounds: int) -> float:
        # The answer is one of n samples, whether or not all of them are drawn.
        return best_of(self.n)

    def search(self, root: Hypothesis) -> Search:
        best: list[Hypothesis] = []
        scores: list[float] = []  # one for each sample, repeated answers included
        while len(scores) < self.n and expected_gain(scores) >= self.min_gain:
            wave = min(self.wave, self.n - len(scores))
            answers = yield from expand([root], wave, None, self.steering, first=len(scores))
            pool = distinct(best + answers)
            values = yield from score(pool)
            score_of = {h.identity: value for h, value in zip(pool, values, strict=True)}
            scores += [score_of[answer.identity] for answer in answers]
            best = top(pool, values, 1)
            del answers, pool  # free rejected answers and their caches
        return best[0]


def expected_gain(scores: Sequence[float]) -> float:
    """Return E[max(X - best, 0)] for one more score X, if scores are normal.

    With z = (best - mean) / spread it is spread * (pdf(z) - z * cdf(-z)), the expected improvement
    of Jones, Schonlau and Welch (1998), equation 15; mean and variance are the sample's unbiased
    ones. A score of minus infinity counts as a sample that gains nothing.

    Returns:
        The gain in the unit of the scores; infinity while fewer than two are finite.
    """
    finite = [value for value in scores if math.isfinite(value)]
    if math.inf in scores:
        return 0.0
    if len(finite) < 2:
        return math.inf
    mean = fmean(finite)
    spread = math.hypot(*(value - mean for value in finite)) / math.sqrt(len(finite) - 1)
    if not spread:
        return 0.0
    z = (max(finite) - mean) / spread
    normal = NormalDist()
    # Rounding makes the difference of two tiny numbers negative.
    gain = spread * max(normal.pdf(z) - z * normal.cdf(-z), 0.0)
    return gain * len(finite) / len(scores)
