"""``LogRatioScorer`` and its config: the paper's value, log p_tuned - log p_untuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, cast

from pydantic import Field

from w2s_chains.core.contracts import BaseGuidePair, key_of
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts, Proposer, Scorer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import ConfigError, ScorerError, shown
from w2s_chains.scorers.adjustments import (
    AdjustedScorerConfig,
    adjusted,
    require_base,
    require_same_base,
    tokens,
)
from w2s_chains.scorers.after import AnswersAfter
from w2s_chains.values import as_items, as_score

_NO_ANSWER = -1e6


class LogRatioConfig(AdjustedScorerConfig):
    """log p_tuned(y|x) - log p_untuned(y|x) of the guides, in nats (Zhou et al., 2024).

    Attributes:
        per_token: Divide the score, adjustments included, by the number of tokens in the answer.
        after: The guides read only what follows this mark, such as "</think>", as the answer.
            Before it has come the log-ratio is 0, and -1,000,000 if the answer ends without it.
    """

    type: Literal["log_ratio"] = "log_ratio"
    per_token: bool = False
    after: Annotated[str, Field(min_length=1)] | None = None

    @property
    def needs_guides(self) -> bool:
        return True

    def build_from(self, parts: Parts) -> LogRatioScorer:
        assert parts.guides is not None, "the config has checked it"
        own = {name: getattr(self, name) for name in type(self).model_fields if name != "type"}
        return LogRatioScorer(
            parts.guides, proposer=parts.proposer if self.base_weight else None, **own
        )


class LogRatioScorer(Scorer):
    """log p_tuned(y|x) - log p_untuned(y|x), in nats (Zhou et al., 2024).

    The sum runs over the tokens of the whole partial answer y, so siblings of equal length are
    comparable; it includes the end token only if the proposer ended its turn. With all options the
    score is

        (log p_tuned(y|x) - log p_untuned(y|x) + base_weight * log p_base(y|x)
            - repetition_penalty * R(y)) / n

    where R(y) is the number of repeated sequences of three words in y, and n = 1, or with
    ``per_token`` the number of the proposer's tokens in y, the end token included. With ``after``
    the guides read a part of y; the other terms are of all of it.
    """

    def __init__(
        self,
        pair: BaseGuidePair,
        *,
        proposer: Proposer | None = None,
        base_weight: float = 0.0,
        repetition_penalty: float = 0.0,
        per_token: bool = False,
        after: str | None = None,
    ) -> None:
        """Make a scorer.

        Args:
            pair: The guides.
            proposer: The large model whose loglikelihood is added with weight ``base_weight``.
            base_weight: Weight of the proposer's loglikelihood, in nats per nat.
            repetition_penalty: Penalty in nats per repeated sequence of three words.
            per_token: Use the mean over the tokens instead of the sum.
            after: Let the guides read only what follows this mark; see ``LogRatioConfig``.

        Raises:
            ConfigError: ``pair`` is no pair of guides.
            ConfigError: ``base_weight`` is set without a proposer that computes loglikelihoods.
            ConfigError: A number is out of range.
        """
        if not isinstance(cast("object", pair), BaseGuidePair):
            raise ConfigError(
                f"a LogRatioScorer needs a pair of guides, not {shown(pair)}; give a GuidePair"
            )
        self.pair: BaseGuidePair = pair
        self.options = LogRatioConfig(
            base_weight=base_weight,
            repetition_penalty=repetition_penalty,
            per_token=per_token,
            after=after,
        )
        self._answers = None if after is None else AnswersAfter(after)
        self.reads_all = after is None
        self.base = require_base(proposer, base_weight)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if a guide cannot read the prompt."""
        BaseGuidePair.of(self.pair).check(prompt, sampling)

    def to_config(self, beside: Parts | None = None) -> LogRatioConfig:
        """Return the section ``scorer``; raises like ``Scorer.to_config``."""
        require_same_base(self, self.base, beside)
        return self.options

    def cache_key(self) -> str:
        """Return the options and the guides, and the proposer if its loglikelihood is added."""
        return f"LogRatioScorer({self.options!r}, {key_of(self.pair)}, {key_of(self.base)})"

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        options = self.options
        ratios = self._ratios(hypotheses) if self._answers is None else self._later(hypotheses)
        scores = adjusted(
            ratios, hypotheses, self.base, options.base_weight, options.repetition_penalty
        )
        if not options.per_token:
            return scores
        return [value / tokens(h) for value, h in zip(scores, hypotheses, strict=True)]

    def _ratios(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        source = f"the guide pair {type(self.pair).__name__}"
        found: object = self.pair.loglikelihoods(hypotheses)
        pairs = as_items(found, len(hypotheses), source, "{} pairs for {} hypotheses")
        return [_ratio(pair, h, source) for pair, h in zip(pairs, hypotheses, strict=True)]

    def _later(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return the log-ratios of what follows the mark."""
        assert self._answers is not None
        answers = [self._answers.find(h) for h in hypotheses]
        ratios = iter(self._ratios([answer for answer in answers if answer is not None]))
        return [
            next(ratios) if answer is not None else _NO_ANSWER if h.finished else 0.0
            for answer, h in zip(answers, hypotheses, strict=True)
        ]

    def score_texts(
        self,
        prompts: Sequence[str | Prompt],
        responses: Sequence[str],
        ended: Sequence[bool] | None = None,
    ) -> list[float]:
        """Score given texts without a search.

        The scored tokens are those after the longest common token prefix of prompt and
        prompt + response.

        Args:
            prompts: One per text.
            responses: The texts.
            ended: Whether each text ended its turn, so that its end token is scored; by default
                True for all.

        Returns:
            One log-ratio per text, in nats.

        Raises:
            ScorerError: The arguments have different lengths.
            PromptError: A text is longer than a guide's context.
        """
        ended = [True] * len(responses) if ended is None else ended
        if not len(prompts) == len(responses) == len(ended):
            raise ScorerError(
                f"got {len(prompts)} prompts, {len(responses)} responses and {len(ended)} ended "
                "flags; give one of each per text"
            )
        roots: dict[str | Prompt, Hypothesis] = {}  # a repeated prompt is read once
        texts = [
            roots.setdefault(prompt, Hypothesis.root(prompt)).extend(
                response, finish_reason="eos" if end else "length"
            )
            for prompt, response, end in zip(prompts, responses, ended, strict=True)
        ]
        return self.score(texts)


def _ratio(pair: object, hypothesis: Hypothesis, source: str) -> float:
    if not isinstance(pair, tuple | list) or len(cast("Sequence[object]", pair)) != 2:
        raise ScorerError(
            f"{source} returned {shown(cast('object', pair))} for the text "
            f"{shown(hypothesis.response)}; it must "
            "return (log p_tuned, log p_untuned)"
        )
    tuned, untuned = (
        as_score(value, hypothesis, source) for value in cast("Sequence[object]", pair)
    )
    return tuned - untuned
