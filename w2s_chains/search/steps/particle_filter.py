"""``ParticleFilter``: sequential Monte Carlo over chunks, which samples instead of maximizing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from w2s_chains.core.asks import Ask, Expand
from w2s_chains.core.hypothesis import Hypothesis, common_ancestor
from w2s_chains.core.sampling import Branches, ChunkTokens, Positive, Real
from w2s_chains.search.base import (
    Search,
    SearchStrategy,
    commit,
    distinct,
    drawn,
    expand_all,
    random_stream,
    relative,
    score,
    top,
)
from w2s_chains.search.kl_bounds import best_of, population


@dataclass(frozen=True, slots=True, kw_only=True)
class Particles:
    """Weighted answers, which stand for the target p_base(y) * exp(score(y) / tau).

    Attributes:
        answers: The finished answers; one that was copied stands here several times.
        scores: Their scores.
        log_weights: log of their weights since the last resampling.
        log_normaliser: Estimate of log Z, where Z is the mean of exp(score(y) / tau) over samples y
            of the frozen model. exp(log_normaliser) is an unbiased estimate of Z.
    """

    answers: tuple[Hypothesis, ...]
    scores: tuple[float, ...]
    log_weights: tuple[float, ...]
    log_normaliser: float


class ParticleFilter(SearchStrategy):
    """Grow N answers, weigh them by their scores, and copy the good ones in place of the bad.

    Sequential Monte Carlo (Lew et al., 2023, "Sequential Monte Carlo Steering of Large Language
    Models"; Zhao et al., 2024; Puri et al., 2025). The target is p_base(y) * exp(score(y) / tau),
    where p_base is what the proposer samples from; with the log-ratio of the guides as score it is
    p_base * (p_tuned / p_untuned)^(1 / tau). A chunk multiplies the weight of its particle by
    exp((score after - score before) / tau), where the empty answer has score 0. The particles are
    resampled when their effective sample size, (sum of w)^2 / (sum of w^2), falls below a share of
    N; a particle that is copied k times then gets k independent continuations. Finished answers
    keep their weights and are copied, too.

    Resampling is systematic and with replacement, where Lew et al. grow each particle several times
    and then thin them out without replacement. The score of a partial answer is what Zhao et al.
    call a twist; theirs is learned, and ours is any scorer's. As N grows, ``pick="drawn"`` samples
    from the target.

    Attributes:
        particles: Number N of answers that grow at once.
        chunk_tokens: Chunk length L in tokens; None makes the whole answer one chunk, which is
            best-of-N, or self-normalised importance sampling with ``pick="drawn"``.
        tau: Temperature of the weights, in units of the score (nats for the log-ratio). Small
            values follow the score, large ones the frozen model.
        resample_below: Share of N below which the effective sample size leads to resampling. 0
            never resamples; 1 does so at every chunk, unless all weights are equal.
        pick: "best" returns the best-scored answer of the last particles; "drawn" draws one by its
            weight.
    """

    type: Literal["particle_filter"] = "particle_filter"
    particles: Branches = 8
    chunk_tokens: ChunkTokens | None = 8
    tau: Positive = 1.0
    resample_below: Annotated[float, Field(ge=0.0, le=1.0), Real] = 0.5
    pick: Literal["best", "drawn"] = "best"

    @property
    def branches(self) -> int:
        return self.particles

    @property
    def scores_partial(self) -> bool:
        return self.chunk_tokens is not None

    def kl_bound(self, rounds: int) -> float:
        if self.chunk_tokens is None or not self.resample_below:
            return best_of(self.particles)  # N independent samples, of which one is chosen
        return population(self.particles, rounds)

    def search(self, root: Hypothesis) -> Search:
        found = yield from self.sample(root)
        if self.pick == "best":
            return top(found.answers, found.scores, 1)[0]
        numbers = yield from random_stream()
        return drawn(found.answers, found.log_weights, numbers)

    def sample(self, root: Hypothesis) -> Generator[Ask, Any, Particles]:
        """Grow the particles until all are finished."""
        numbers = yield from random_stream()
        particles = [root] * self.particles
        scores = [0.0] * self.particles
        before = scores  # at the last resampling: what lies between is the weight, by telescoping
        log_weights = [0.0] * self.particles
        log_normaliser = 0.0
        while not all(h.finished for h in particles):
            particles = yield from _grown(particles, self.chunk_tokens)
            scores = yield from _scores(particles)
            log_weights = [
                0.0 if now == then else (now - then) / self.tau  # both may be infinite
                for now, then in zip(scores, before, strict=True)
            ]
            weights = relative(log_weights)
            enough = self.resample_below * self.particles
            if effective_size(weights) < enough and not all(h.finished for h in particles):
                log_normaliser += log_mean(log_weights)
                kept = systematic(weights, numbers.random())
                particles = [particles[i] for i in kept]
                scores = before = [scores[i] for i in kept]
                log_weights = [0.0] * self.particles
            yield from commit(common_ancestor(particles))
        return Particles(
            answers=tuple(particles),
            scores=tuple(scores),
            log_weights=tuple(log_weights),
            log_normaliser=log_normaliser + log_mean(log_weights),
        )


def _grown(
    particles: Sequence[Hypothesis], chunk_tokens: int | None
) -> Generator[Ask, Any, list[Hypothesis]]:
    """Continue the unfinished particles; those that are copies of one get different children."""
    copies = Counter(h for h in particles if not h.finished)
    asks = [
        Expand(
            hypotheses=tuple(h for h in copies if copies[h] == count),
            successors=count,
            chunk_tokens=chunk_tokens,
        )
        for count in sorted(set(copies.values()))
    ]
    answers = yield from expand_all(asks)
    children: dict[Hypothesis, Iterator[Hypothesis]] = {}
    for ask, flat in zip(asks, answers, strict=True):
        for i, h in enumerate(ask.hypotheses):
            children[h] = iter(flat[i * ask.successors : (i + 1) * ask.successors])
    return [h if h.finished else next(children[h]) for h in particles]


def _scores(particles: Sequence[Hypothesis]) -> Generator[Ask, Any, list[float]]:
    """Score particles, identical texts once."""
    pool = distinct(particles)
    found = yield from score(pool)
    known = {h.identity: value for h, value in zip(pool, found, strict=True)}
    return [known[h.identity] for h in particles]


def effective_size(weights: Sequence[float]) -> float:
    """Return the effective sample size (sum of w)^2 / (sum of w^2), from 1 to len(weights)."""
    return sum(weights) ** 2 / sum(weight**2 for weight in weights)


def log_mean(log_weights: Sequence[float]) -> float:
    """Return the log of the mean weight."""
    largest = max(log_weights)
    if math.isinf(largest):
        return largest
    return largest + math.log(sum(relative(log_weights)) / len(log_weights))


def systematic(weights: Sequence[float], offset: float) -> list[int]:
    """Resample: return N indices, index i N * w_i / sum(w) times, rounded down or up.

    Systematic resampling (Carpenter et al., 1999): on a circle of arcs of these lengths, it takes
    what lies at the N points offset, offset + 1, and so on. For an offset that is uniform on
    [0, 1), the mean number of copies is exact, which keeps the estimate of Z unbiased.
    """
    total, count = sum(weights), len(weights)
    kept: list[int] = []
    reached = 0.0
    for i, weight in enumerate(weights):
        reached += weight * count / total
        while len(kept) < count and len(kept) + offset < reached:
            kept.append(i)
    return kept + [kept[-1]] * (count - len(kept))  # where rounding errors lose the last point
