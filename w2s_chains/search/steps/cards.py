"""``CARDS``: cascade reward sampling, rejection sampling of segments (Li et al., 2024)."""

from __future__ import annotations

import math
import random
from typing import Literal

from w2s_chains.core.asks import Until
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Branches, ChunkTokens, MaxTokens, NotNegative, Positive, Weight
from w2s_chains.search.base import Search, SearchStrategy, commit, expand, random_stream, score
from w2s_chains.search.kl_bounds import chunk_beam


class CARDS(SearchStrategy):
    """Sample a segment, accept it if its score is high enough for its length, else try again.

    Li et al. (2024), "Cascade Reward Sampling for Efficient Decoding-Time Alignment". A segment
    ends before a token of which the frozen model is uncertain, since scores of semantically whole
    texts are more reliable. A segment that makes the answer t tokens long is accepted with
    probability min(1, exp((score - threshold(t)) / beta)), where threshold(t) rises linearly from
    ``start`` to ``goal`` and stays there from ``goal_tokens`` on.

    After ``attempts`` rejections the best segment of those is taken, as in the authors' code; pure
    rejection sampling could go on for ever. The paper sets ``start`` to (1 - a) * score(prompt) + a
    * goal; the log-ratio of an empty answer is 0, so with the default ``start`` a is 0, and other
    scorers need their own. As in the authors' code, a segment has at least 4 tokens: a small model
    is uncertain of most tokens, and would be asked and scored anew for each of them.

    Attributes:
        goal: The score r* that a whole answer should reach, in units of the score (nats for the
            log-ratio, which is a sum over tokens). The default means little: set what good answers
            of your task score, or a little more.
        start: Threshold of an empty answer.
        goal_tokens: Length in tokens at which the threshold reaches ``goal``; in the paper the
            maximum length of the answer.
        beta: Temperature of the acceptance, in units of the score.
        entropy: Entropy of a token's distribution, in nats, above which a segment ends before it.
        min_tokens: Least tokens of a segment, unless the answer ends.
        chunk_tokens: Maximum tokens of a segment.
        attempts: Maximum number of segments to try at each place.
        wave: Number of them to sample at once. It changes cost and speed, but never the answer.
    """

    type: Literal["cards"] = "cards"
    goal: Weight = 10.0
    start: Weight = 0.0
    goal_tokens: MaxTokens = 128
    beta: Positive = 1.0
    entropy: NotNegative = 3.0
    min_tokens: ChunkTokens = 4
    chunk_tokens: ChunkTokens = 64
    attempts: Branches = 20
    wave: Branches = 4

    @property
    def branches(self) -> int:
        return min(self.wave, self.attempts)

    @property
    def commits_late(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"until"})

    def kl_bound(self, rounds: int) -> float:
        # Each segment is chosen among at most ``attempts`` samples; it takes one round or more.
        return chunk_beam(1, self.attempts, rounds)

    def threshold(self, tokens: int) -> float:
        """The score from which on an answer of this many tokens is always accepted."""
        return self.start + (self.goal - self.start) * min(tokens / self.goal_tokens, 1.0)

    def search(self, root: Hypothesis) -> Search:
        answer = root
        numbers = yield from random_stream()
        while not answer.finished:
            answer = yield from self._segment(answer, numbers)
            yield from commit(answer)
        return answer

    def _segment(self, answer: Hypothesis, numbers: random.Random) -> Search:
        """Continue an answer by a segment that is accepted, or by the best of those tried."""
        best: Hypothesis | None = None
        best_score = -math.inf
        tried = 0
        while tried < self.attempts:
            wave = min(self.wave, self.attempts - tried)
            candidates = yield from expand(
                [answer],
                wave,
                self.chunk_tokens,
                first=tried,
                until=Until(entropy=self.entropy, least=self.min_tokens),
            )
            scores = yield from score(candidates)
            for i, value in enumerate(scores):
                margin = value - self.threshold(candidates[i].n_tokens)
                # One number for each candidate up to the accepted one, whatever the wave.
                if math.log(1.0 - numbers.random()) <= margin / self.beta:
                    return candidates[i]
                if best is None or value > best_score:
                    best, best_score = candidates[i], value
            del candidates  # free rejected segments and their caches
            tried += wave
        assert best is not None
        return best
