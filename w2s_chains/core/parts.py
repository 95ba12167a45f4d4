"""The contracts of the two parts that a search asks: ``Proposer`` and ``Scorer``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from w2s_chains.core.asks import Expand
from w2s_chains.core.contracts import BaseGuidePair, Contract
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat, Prompt
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.errors import ConfigError


class PromptTokenizer(Protocol):
    """What a proposer's tokenizer tells about prompts."""

    @property
    def chat(self) -> object | None:
        """The chat template that prompts are rendered with; None reads their plain text."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens."""
        ...


class Proposer(Contract):
    """The large frozen model: continues hypotheses.

    Attributes:
        slice_tokens: Most tokens that one call samples. Between two slices of a longer chunk,
            answers that ended leave the batch and new searches join it. None asks for the whole
            chunk at once, for proposers that cannot go on where they stopped or pay per call.
        tokenizer: Its tokenizer, a ``PromptTokenizer``, where it is known here; else None.
        call_format: How its chat template writes the call of a tool.
    """

    required = "propose"
    role = "proposer"

    slice_tokens: int | None = 16
    tokenizer: Any = None
    call_format: CallFormat = DEFAULT_CALLS

    @abstractmethod
    def propose(self, requests: Sequence[Expand]) -> Sequence[list[Hypothesis] | Exception]:
        """Continue hypotheses.

        Args:
            requests: One per search. The answer to a request depends on nothing but the request.

        Returns:
            Per request its children: ``successors`` of the first hypothesis, then of the second,
            and so on. Or the error that ends its search, and no other. An error that is *raised*
            makes the engine ask again for each search alone.
        """

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs.

        Raises:
            PromptError: The prompt, with an answer of ``max_tokens``, cannot be read.
        """

    def check_steering(self, guides: BaseGuidePair | None) -> None:
        """Refuse guides that cannot steer this proposer token by token.

        Raises:
            ConfigError: They cannot, or this proposer cannot be steered, which is the default.
        """
        raise ConfigError(
            "the strategy steers every token, which the proposer "
            f"{self.__class__.__name__} cannot; use a HuggingFaceProposer, or a strategy without "
            "steering"
        )

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        """Refuse a form that answers of this proposer cannot have.

        Raises:
            ConfigError: It cannot keep to any form, which is the default.
            ConstraintError: It cannot keep to this one, or not within ``max_tokens``.
        """
        raise ConfigError(
            f"the proposer {self.__class__.__name__} cannot keep its answers to a form, which "
            "tools and structured output need; use a HuggingFaceProposer"
        )

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Log p(response | prompt) of each hypothesis under the proposer itself, in nats.

        Raises:
            ConfigError: It cannot tell, which is the default.
        """
        raise ConfigError(
            f"the score needs the proposer's own loglikelihood, which the proposer "
            f"{self.__class__.__name__} cannot tell; use a HuggingFaceProposer, or leave out "
            "base_weight and scorers of type 'loglikelihood'"
        )

    @property
    def max_positions(self) -> int | None:
        """Most tokens of prompt and answer together; None where nothing is known."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a scorer may be built from.

    Attributes:
        proposer: The large model.
        guides: The guide pair of the config; None without one.
        load: Loads a local model (a ``Loader``), for scorers with guides of their own; models with
            equal weights are loaded once.
    """

    proposer: Proposer
    guides: BaseGuidePair | None = None
    load: Callable[..., Any] | None = None


class Scorer(Contract):
    """The value of a partial answer; higher is better.

    Attributes:
        pair: The ``BaseGuidePair`` that it reads, if any.
        partial: Whether it can score a text that goes on; otherwise whole answers only.
    """

    required = "score"
    role = "scorer"

    pair: Any = None
    partial: bool = True

    @abstractmethod
    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """The value of each hypothesis, in order."""

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs; raises like ``Proposer.check``."""

    def to_config(self, beside: Parts | None = None) -> BaseModel:
        """The section ``scorer`` of a config.

        Args:
            beside: What the other sections of that config describe: the proposer, the guides.

        Raises:
            ConfigError: It was built by hand, or from other parts than those.
        """
        return Contract.to_config(self)
