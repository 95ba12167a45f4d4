"""Several scores as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.proposing import Proposer
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.core.scoring import Checks, ReadsTogether, Scorer
from w2s_chains.errors import ConfigError, ScorerError
from w2s_chains.scorers.adjustments import AdjustedScorerConfig, adjusted, require_base


class Weighted(NamedTuple):
    """A part of a mixture.

    Attributes:
        scorer: What scores.
        weight: What its scores are multiplied with; a negative one steers away.
    """

    scorer: Scorer
    weight: float = 1.0


class MixtureScorer:
    """A weighted sum of scores, such as the log-ratios of several pairs of guides.

    The score is

        sum_i weight_i * score_i(y|x) + base_weight * log p_base(y|x) - repetition_penalty * R(y)

    where R(y) is how many sequences of three words y has said before. Guides that are the same
    object in several parts read every text once, and those that share weights (adapters or prompts
    of one model) read in one forward pass; a part of weight 0 is not asked.

    Example:
        >>> MixtureScorer([(LogRatioScorer(kind), 1.0), (LogRatioScorer(toxic), -0.5)])
    """

    def __init__(
        self,
        parts: Sequence[tuple[Scorer, float]],
        *,
        proposer: Proposer | None = None,
        base_weight: float = 0.0,
        repetition_penalty: float = 0.0,
    ) -> None:
        """Make a scorer.

        Args:
            parts: Scorers and their weights.
            proposer: The large model, whose own loglikelihood ``base_weight`` adds.
            base_weight: In score per nat.
            repetition_penalty: In score per repeated sequence of three words.

        Raises:
            ConfigError: There are no parts, one is no scorer, or a weight is no finite number;
                ``base_weight`` without a proposer that tells loglikelihoods.
            pydantic.ValidationError: An option is out of range.
        """
        self.parts = tuple(_weighted(part) for part in parts)
        if not self.parts:
            raise ConfigError("a mixture has no parts; give at least one (scorer, weight)")
        self.options = AdjustedScorerConfig(
            type="mixture", base_weight=base_weight, repetition_penalty=repetition_penalty
        )
        self.base = require_base(proposer, base_weight)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if a part cannot read the prompt."""
        for part in self.parts:
            if isinstance(part.scorer, Checks):
                part.scorer.check(prompt, sampling)

    @property
    def partial(self) -> bool:
        """Whether every part can score a text that goes on."""
        return all(getattr(part.scorer, "partial", True) for part in self.parts)

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        total = [0.0] * len(hypotheses)
        asked = [part for part in self.parts if part.weight]
        pairs = [getattr(part.scorer, "pair", None) for part in asked]
        for pair in pairs:
            if isinstance(pair, ReadsTogether):
                pair.read_together(pairs, hypotheses)
                break
        for part in asked:
            own = part.scorer.score(hypotheses)
            if len(own) != len(hypotheses):
                raise ScorerError(
                    f"the scorer {type(part.scorer).__name__} in a mixture returned {len(own)} "
                    f"scores for {len(hypotheses)} hypotheses; it must return one for each, in "
                    "order"
                )
            total = [t + part.weight * value for t, value in zip(total, own, strict=True)]
        options = self.options
        return adjusted(
            total, hypotheses, self.base, options.base_weight, options.repetition_penalty
        )


def _weighted(part: Any) -> Weighted:
    try:
        scorer, weight = part
        finite = math.isfinite(weight)
    except (TypeError, ValueError):
        raise ConfigError(f"a part of a mixture is {part!r}; give (scorer, weight)") from None
    if not isinstance(scorer, Scorer):
        raise ConfigError(
            f"a part of a mixture is {scorer!r}, which has no method score; give (scorer, weight)"
        )
    if not finite:
        raise ConfigError(f"the weight of a part of a mixture is {weight}; give a finite number")
    return Weighted(scorer, weight)
