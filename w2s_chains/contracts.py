"""The plug-in points. Each is a protocol: any object with the method will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from w2s_chains.asks import Constraint, Expand, SamplingParams
from w2s_chains.hypothesis import Hypothesis, Prompt


@runtime_checkable
class Proposer(Protocol):
    """The large frozen model."""

    def propose(self, requests: Sequence[Expand]) -> Sequence[list[Hypothesis] | Exception]:
        """Continue hypotheses.

        Args:
            requests: One per search. The answer to a request depends on nothing but the request.

        Returns:
            Per request its children: ``successors`` of the first hypothesis, then of the second,
            and so on. Or the error that ends its search, and no other. An error that is *raised*
            makes the engine ask again for each search alone.
        """
        ...


@runtime_checkable
class Guide(Protocol):
    """One small model."""

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Log p(response | prompt) of each hypothesis, in nats.

        Summed over the tokens from the root; one that ended its turn counts its end token too.
        """
        ...


@runtime_checkable
class Guides(Protocol):
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


@runtime_checkable
class Sliced(Protocol):
    """Optional for proposers: how many tokens of a chunk the engine asks for at a time.

    None asks for the whole chunk at once: for proposers that cannot go on where they stopped, or
    for which every call costs. Others are asked for 16 at a time.
    """

    slice_tokens: int | None


@runtime_checkable
class Steerable(Protocol):
    """Optional for proposers: token-level steering by a guide pair."""

    def check_steering(self, guides: Guides | None) -> None:
        """Raise ConfigError if ``guides`` cannot steer this proposer token by token."""
        ...


@runtime_checkable
class Constrainable(Protocol):
    """Optional for proposers: answers of a given form."""

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        """Raise ConstraintError if the form cannot be kept, or not within ``max_tokens``."""
        ...
