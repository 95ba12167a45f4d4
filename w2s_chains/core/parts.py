"""The contracts of the two parts that a search calls: ``Proposer`` and ``Scorer``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from w2s_chains.core.asks import Expand
from w2s_chains.core.contracts import BaseGuidePair, Contract
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat, Prompt, ThoughtFormat
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.errors import ConfigError


class PromptTokenizer(Protocol):
    """The interface of a proposer's tokenizer: its chat template and token counts."""

    @property
    def chat(self) -> object | None:
        """The chat template that renders prompts; None uses their plain text."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens."""
        ...

    def prompt_ids(self, prompt: Prompt, /) -> Sequence[int]:
        """Return the token ids of a prompt, with its template and start token."""
        ...


class Proposer(Contract):
    """The large frozen model, which continues hypotheses.

    Attributes:
        slice_tokens: Maximum tokens sampled per call. Between two slices of a longer chunk,
            finished answers leave the batch and new searches join it. None requests the whole
            chunk at once, for proposers that cannot resume an answer or that pay per call.
        tokenizer: Its tokenizer, a ``PromptTokenizer``; None if it is not available here.
        call_format: How its chat template writes a tool call.
        abilities: What it can do beyond sampling independent children of a number of tokens:
            "first" (further children, ``Expand.first``; the engine samples the earlier ones again
            where it is missing), "distinct", "until", "drafts" and "by_guide" (the fields
            of ``Expand``).
    """

    required = "propose"
    role = "proposer"

    slice_tokens: int | None = 16
    tokenizer: Any = None
    call_format: CallFormat = DEFAULT_CALLS
    abilities: frozenset[str] = frozenset()

    @abstractmethod
    def propose(self, requests: Sequence[Expand]) -> Sequence[list[Hypothesis] | Exception]:
        """Continue hypotheses.

        Args:
            requests: One per search. The answer to a request must depend only on the request.

        Returns:
            For each request, its children: ``successors`` of the first hypothesis, then of the
            second, and so on; or an error, which ends only that search. If an error is *raised*
            instead, the engine calls again for each search alone.

        What it spends is added to ``hypothesis.usage``; see ``Usage``.
        """

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs.

        Raises:
            PromptError: The prompt and an answer of ``max_tokens`` do not fit the model.
        """

    def thoughts(self, prompt: Prompt) -> ThoughtFormat | None:
        """Return how this model writes thoughts before an answer; by default None, for none.

        Args:
            prompt: The prompt, which may end with the mark that begins them.
        """
        return None

    def check_steering(self, guides: BaseGuidePair | None) -> None:
        """Refuse guides that cannot steer this proposer token by token.

        Raises:
            ConfigError: They cannot, or this proposer does not support steering (the default).
        """
        raise ConfigError(
            "the strategy steers every token, which the proposer "
            f"{self.__class__.__name__} cannot; use a HuggingFaceProposer, or a strategy without "
            "steering"
        )

    def check_writer(self, guides: BaseGuidePair | None) -> None:
        """Refuse guides of which the tuned one cannot write (``Expand.by_guide``).

        Raises:
            ConfigError: It cannot, or this proposer does not let it (the default).
        """
        raise ConfigError(
            "the strategy lets the tuned guide write words, which the proposer "
            f"{self.__class__.__name__} cannot; use a HuggingFaceProposer, or another strategy"
        )

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        """Refuse a constraint that this proposer cannot satisfy.

        Raises:
            ConfigError: It does not support constraints (the default).
            ConstraintError: It cannot satisfy this one, or not within ``max_tokens``.
        """
        raise ConfigError(
            f"the proposer {self.__class__.__name__} cannot keep its answers to a form, which "
            "tools and structured output need; use a HuggingFaceProposer"
        )

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return log p(response | prompt) of each hypothesis under the proposer, in nats.

        Raises:
            ConfigError: The proposer cannot compute it (the default).
        """
        raise ConfigError(
            f"the score needs the proposer's own loglikelihood, which the proposer "
            f"{self.__class__.__name__} cannot tell; use a HuggingFaceProposer, or leave out "
            "base_weight and scorers of type 'loglikelihood'"
        )

    @property
    def max_positions(self) -> int | None:
        """Maximum tokens of prompt and answer together; None if unknown."""
        return None

    @property
    def flops_per_token(self) -> float | None:
        """Estimated FLOPs to read one token; None if the size of the model is unknown."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts that a scorer may be built from.

    Attributes:
        proposer: The large model.
        guides: The guide pair of the config; None if it has none.
        load: Loads a local model (a ``Loader``), for scorers with their own guides; equal weights
            are loaded once.
    """

    proposer: Proposer
    guides: BaseGuidePair | None = None
    load: Callable[..., Any] | None = None


class Scorer(Contract):
    """Scores partial answers; higher is better.

    Attributes:
        pair: The ``BaseGuidePair`` that it reads, if any.
        reads_all: Whether the pair reads whole answers, which can thus be read ahead.
        partial: Whether it can score unfinished answers; if not, only whole ones.
    """

    required = "score"
    role = "scorer"

    pair: Any = None
    reads_all: bool = True
    partial: bool = True

    @abstractmethod
    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return the score of each hypothesis, in order."""

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs; raises like ``Proposer.check``."""

    def to_config(self, beside: Parts | None = None) -> BaseModel:
        """Return the section ``scorer`` of a config.

        Args:
            beside: The parts described by the other sections: the proposer and the guides.

        Raises:
            ConfigError: It was built by hand, or from parts other than these.
        """
        return Contract.to_config(self)
