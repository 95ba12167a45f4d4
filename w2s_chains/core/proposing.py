"""The plug-in points. Each is a protocol: any object with the method will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.core.scoring import BaseGuidePair


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
class Sliced(Protocol):
    """Optional for proposers: how many tokens of a chunk the engine asks for at a time.

    None asks for the whole chunk at once: for proposers that cannot go on where they stopped, or
    for which every call costs. Others are asked for 16 at a time.
    """

    slice_tokens: int | None


@runtime_checkable
class Steerable(Protocol):
    """Optional for proposers: token-level steering by a guide pair."""

    def check_steering(self, guides: BaseGuidePair | None) -> None:
        """Raise ConfigError if ``guides`` cannot steer this proposer token by token."""
        ...


@runtime_checkable
class Constrainable(Protocol):
    """Optional for proposers: answers of a given form."""

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        """Raise ConstraintError if the form cannot be kept, or not within ``max_tokens``."""
        ...
