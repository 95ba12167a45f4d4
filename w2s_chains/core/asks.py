"""What a search asks for. A strategy yields asks; the engine sends back the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import DEFAULT_SAMPLING, Constraint, SamplingParams


def never() -> bool:
    """Nobody cancels."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expand:
    """Continue each hypothesis; answered by one list of children, in order.

    A child may hang from an ancestor of its hypothesis where a stop string reaches back into
    text that was already there.

    Attributes:
        hypotheses: What to continue; none of them finished.
        successors: Children of each hypothesis (K).
        chunk_tokens: Most tokens of a child (L); None goes on until the answer is finished.
        may_be_whole: The chunks are for streaming alone: a proposer that gives nothing but whole
            answers may give one.
        steering: Sample every token from softmax(log p_base + steering * (log p_tuned -
            log p_untuned)) (emulated fine-tuning, Mitchell et al., 2023).
        sampling: How to sample; filled in by the engine.
        seed: The seed of this search; filled in by the engine.
        guides: The pair that steers; filled in by the engine where steering is not 0.
        constraint: What form the whole answer must have; filled in by the engine.
        cancelled: Whether nobody waits for the answer any more; filled in by the engine. Proposers
            that wait for something else than a model in this process look at it meanwhile.
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
    """The value of each hypothesis; answered by one float for each, in order."""

    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Commit:
    """The text up to this hypothesis can no longer change; answered by None."""

    hypothesis: Hypothesis


Ask = Expand | Score | Commit
