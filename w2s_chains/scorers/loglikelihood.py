"""``LoglikelihoodScorer`` and its config: log p of the large model itself, without guides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from w2s_chains.core.contracts import key_of
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts, Proposer, Scorer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.scorers.adjustments import (
    own_loglikelihood,
    require_loglikelihood,
    require_same_base,
    tokens,
)
from w2s_chains.scorers.config import BuiltInScorerConfig


class LoglikelihoodConfig(BuiltInScorerConfig):
    """log p(y|x) of the section `proposer` itself, in nats: vanilla beam search.

    Attributes:
        per_token: Divide by the number of tokens in the answer.
    """

    type: Literal["loglikelihood"] = "loglikelihood"
    per_token: bool = False

    def build_from(self, parts: Parts) -> LoglikelihoodScorer:
        return LoglikelihoodScorer(parts.proposer, per_token=self.per_token)


class LoglikelihoodScorer(Scorer):
    """log p(y|x) of a model itself, in nats, however y was sampled.

    This is the loglikelihood at temperature 1, without filters, penalties or steering. Chunk beam
    search with the proposer's loglikelihood is the paper's baseline without guides (its successors
    are sampled, not the most likely ones). Nothing is read again for it, because the proposer keeps
    the logprobs of the tokens it sampled. The end token counts only if the model ended its turn.
    """

    def __init__(self, proposer: Proposer, *, per_token: bool = False) -> None:
        """Make a scorer.

        Args:
            proposer: The large model, or anything else with a method ``loglikelihood``.
            per_token: Divide by the number of the answer's tokens, the end token included.

        Raises:
            ConfigError: The proposer cannot compute loglikelihoods.
        """
        self.base = require_loglikelihood(proposer)
        self.options = LoglikelihoodConfig(per_token=per_token)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if the model cannot read the prompt."""
        Proposer.of(self.base).check(prompt, sampling)

    def to_config(self, beside: Parts | None = None) -> LoglikelihoodConfig:
        """Return the section ``scorer``; raises like ``Scorer.to_config``."""
        require_same_base(self, self.base, beside)
        return self.options

    def cache_key(self) -> str:
        """Return the options and the model."""
        return f"LoglikelihoodScorer({self.options!r}, {key_of(self.base)})"

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        found = own_loglikelihood(self.base, hypotheses)
        if not self.options.per_token:
            return found
        return [value / tokens(h) for value, h in zip(found, hypotheses, strict=True)]
