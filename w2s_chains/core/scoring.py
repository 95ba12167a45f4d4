"""What values partial answers: guides, pairs of guides, scorers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams


@runtime_checkable
class Guide(Protocol):
    """One small model."""

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Log p(response | prompt) of each hypothesis, in nats.

        Summed over the tokens from the root; one that ended its turn counts its end token too.
        """
        ...


@runtime_checkable
class BaseGuidePair(Protocol):
    """A tuned and an untuned guide, read together."""

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        """(log p_tuned, log p_untuned) of each hypothesis, in nats."""
        ...


@runtime_checkable
class ReadsTogether(Protocol):
    """Optional for guides: several pairs that share weights read in one forward pass."""

    def read_together(self, others: Sequence[object], hypotheses: Sequence[Hypothesis]) -> None:
        """Read what is new, so that asking this pair or another one finds it read already."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """The value of a partial answer; higher is better."""

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]: ...


@runtime_checkable
class Checks(Protocol):
    """Optional for proposers and scorers: refuse a prompt before any model runs."""

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if the prompt, with an answer of ``max_tokens``, cannot be read."""
        ...
