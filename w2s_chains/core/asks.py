"""The asks of a strategy: ``Expand``, ``Score``, ``Commit`` and ``RandomStream``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import DEFAULT_SAMPLING, Constraint, SamplingParams


def never() -> bool:
    """Return False: the default for asks that nobody can cancel."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expand:
    """Continue each hypothesis. The answer is one flat list of children, in order.

    If a stop string begins in earlier text, the child's parent is an ancestor of the hypothesis.

    Attributes:
        hypotheses: The hypotheses to continue, all unfinished.
        successors: Number of children per hypothesis (K).
        chunk_tokens: Maximum tokens per child (L); None continues until the answer is finished.
        may_be_whole: Whether chunks only serve streaming. If so, a proposer that can only return
            whole answers may return one.
        steering: Sample every token from softmax(log p_base + steering * (log p_tuned -
            log p_untuned)) (emulated fine-tuning, Mitchell et al., 2023).
        sampling: How to sample; filled in by the engine.
        seed: Seed of this search; filled in by the engine.
        guides: The guide pair that steers; filled in by the engine if steering is not 0.
        constraint: The form that the whole answer must have; filled in by the engine.
        cancelled: Returns whether the search was cancelled; filled in by the engine. A proposer
            that waits for another process or a server polls it.
    """

    hypotheses: tuple[Hypothesis, ...]
    successors: int = 1
    chunk_tokens: int | None = None
    may_be_whole: bool = False
    steering: float = 0.0
    sampling: SamplingParams = DEFAULT_SAMPLING
    seed: int = 0
    guides: BaseGuidePair | None = None
    constraint: Constraint | None = None
    cancelled: Callable[[], bool] = never


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """Score each hypothesis. The answer is one float per hypothesis, in order."""

    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Commit:
    """Declare the text up to this hypothesis final. The answer is None."""

    hypothesis: Hypothesis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RandomStream:
    """Ask for random numbers of the strategy's own. The answer is a ``random.Random``.

    It depends on the prompt and the seed alone, so that an answer never depends on others. A search
    that asks again gets the same object.
    """


Ask = Expand | Score | Commit | RandomStream
