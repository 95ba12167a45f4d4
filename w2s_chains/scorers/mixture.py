"""``MixtureScorer`` and its config: a weighted sum of several scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import AliasChoices, Field, field_validator

from w2s_chains.core.configs import Config
from w2s_chains.core.contracts import BaseGuidePair, config_of, key_of
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts, Proposer, Scorer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import LARGEST, SamplingParams, Weight
from w2s_chains.core.slots import LazyClasses
from w2s_chains.errors import ConfigError, shown
from w2s_chains.guides.config import AnyGuides, Guides
from w2s_chains.scorers.adjustments import (
    AdjustedScorerConfig,
    adjusted,
    require_base,
    require_same_base,
)
from w2s_chains.scorers.config import SCORER, SCORERS, ScorerConfig
from w2s_chains.scorers.log_ratio import LogRatioConfig
from w2s_chains.values import as_scores

AnySingleScorer = Annotated[
    ScorerConfig,
    replace(
        SCORER,
        builtins=LazyClasses(
            **{name: SCORERS.places[name] for name in SCORERS if name != "mixture"}
        ),
    ),
]
"""The type of a config field that holds any scorer except a mixture."""


class MixturePart(Config):
    """One part of a mixture.

    Attributes:
        weight: The factor of its score; a negative weight steers away.
        scorer: The scorer; by default the log-ratio of the guides.
        guides: Guides for this part alone; by default those of the section ``guides``.
    """

    weight: Weight = 1.0
    scorer: AnySingleScorer = LogRatioConfig()
    guides: Annotated[AnyGuides | None, Field(validation_alias=AliasChoices("guides", "guide"))] = (
        None
    )

    def written(self, chat: bool = False) -> dict[str, Any]:
        own = {} if self.guides is None else {"guides": self.guides.written(chat)}
        return {"weight": self.weight, "scorer": self.scorer.written(chat), **own}

    @field_validator("scorer", mode="before")
    @classmethod
    def _no_mixture(cls, value: object) -> object:
        if _type_of(value) == "mixture" or isinstance(value, MixtureConfig):
            raise _nested()
        return value


class MixtureConfig(AdjustedScorerConfig):
    """A weighted sum of scores, such as the log-ratios of several pairs of guides.

    Attributes:
        parts: The scores to add up, and their weights.
    """

    type: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[MixturePart, ...], Field(min_length=1)]

    @property
    def needs_guides(self) -> bool:
        return any(part.scorer.needs_guides and part.guides is None for part in self.parts)

    def preview(self) -> None:
        for part in self.parts:
            part.scorer.preview()

    def own_guides(self) -> Sequence[Guides]:
        return [part.guides for part in self.parts if part.guides is not None]

    def for_chat(self) -> Self:
        parts = [
            part
            if part.guides is None
            else part.model_copy(update={"guides": part.guides.for_chat()})
            for part in self.parts
        ]
        return self.model_copy(update={"parts": tuple(parts)})

    def written(self, chat: bool = False) -> dict[str, Any]:
        return {**super().written(chat), "parts": [part.written(chat) for part in self.parts]}

    def build_from(self, parts: Parts) -> MixtureScorer:
        return MixtureScorer(
            [Weighted(self._built(part, parts), part.weight) for part in self.parts],
            proposer=parts.proposer,
            base_weight=self.base_weight,
            repetition_penalty=self.repetition_penalty,
        )

    def _built(self, part: MixturePart, parts: Parts) -> Scorer:
        if part.guides is not None:
            from w2s_chains.guides.pair import GuidePair  # imports torch

            parts = replace(parts, guides=GuidePair.from_guides(part.guides, parts.load))
        return part.scorer.build_from(parts)


class Weighted(NamedTuple):
    """A part of a mixture.

    Attributes:
        scorer: The scorer.
        weight: The factor of its scores; a negative one steers away.
    """

    scorer: Scorer
    weight: float = 1.0


class MixtureScorer(Scorer):
    """A weighted sum of scores, such as the log-ratios of several pairs of guides.

    The score is

        sum_i weight_i * score_i(y|x) + base_weight * log p_base(y|x) - repetition_penalty * R(y)

    where R(y) is the number of repeated sequences of three words in y. Guides that are the same
    object in several parts read every text once, and guides that share weights (adapters or prompts
    of one model) run in one forward pass. A part of weight 0 is not evaluated.

    Examples:
        >>> scorer = MixtureScorer([(LogRatioScorer(kind), 1.0), (LogRatioScorer(toxic), -0.5)])
        >>> llm = W2SLLM(proposer=Model("embedded:smollm2-135m-instruct"), scorer=scorer)
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
            proposer: The large model whose loglikelihood is added with weight ``base_weight``.
            base_weight: Weight of the proposer's loglikelihood, in score per nat.
            repetition_penalty: Penalty in score per repeated sequence of three words.

        Raises:
            ConfigError: There are no parts, one is not a scorer, or a weight is not finite;
                ``base_weight`` is set without a proposer that computes loglikelihoods.
            ConfigError: An option is out of range.
        """
        if not isinstance(cast("object", parts), Iterable):
            raise ConfigError(f"the parts of a mixture are {shown(parts)}; give [(scorer, weight)]")
        self.parts = tuple(_weighted(part) for part in parts)
        if not self.parts:
            raise ConfigError("a mixture has no parts; give at least one (scorer, weight)")
        self.options = AdjustedScorerConfig(
            type="mixture", base_weight=base_weight, repetition_penalty=repetition_penalty
        )
        self.base = require_base(proposer, base_weight)
        self.partial = all(Scorer.of(part.scorer).partial for part in self.parts)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if a part cannot read the prompt."""
        for part in self.parts:
            Scorer.of(part.scorer).check(prompt, sampling)

    def to_config(self, beside: Parts | None = None) -> MixtureConfig:
        """Return the section ``scorer``; a part names its guides if they differ from ``beside``.

        Raises:
            ConfigError: A part was built by hand, is itself a mixture, or uses another proposer.
        """
        require_same_base(self, self.base, beside)
        return MixtureConfig(
            parts=tuple(_part_config(part, beside) for part in self.parts),
            base_weight=self.options.base_weight,
            repetition_penalty=self.options.repetition_penalty,
        )

    def cache_key(self) -> str:
        """Return the options, and the weight and key of every part."""
        parts = [(part.weight, key_of(part.scorer)) for part in self.parts]
        return f"MixtureScorer({self.options!r}, {key_of(self.base)}, {parts})"

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        total = [0.0] * len(hypotheses)
        asked = [part for part in self.parts if part.weight]
        scorers = [Scorer.of(part.scorer) for part in asked]
        pairs = [one.pair for one in scorers if one.pair is not None and one.reads_all]
        for pair in pairs[:1]:
            BaseGuidePair.of(pair).read_together(pairs, hypotheses)
        for part in asked:
            name = f"the scorer {type(part.scorer).__name__} in a mixture"
            own = as_scores(part.scorer.score(hypotheses), hypotheses, name)
            total = [t + part.weight * value for t, value in zip(total, own, strict=True)]
        options = self.options
        return adjusted(
            total, hypotheses, self.base, options.base_weight, options.repetition_penalty
        )


def _weighted(part: Any) -> Weighted:
    try:
        scorer, weight = part
        fits = not isinstance(weight, bool) and abs(weight) <= LARGEST
    except (TypeError, ValueError):
        raise ConfigError(f"a part of a mixture is {part!r}; give (scorer, weight)") from None
    if not isinstance(scorer, Scorer):
        raise ConfigError(
            f"a part of a mixture is {scorer!r}, which has no method score; give (scorer, weight)"
        )
    if not fits:
        raise ConfigError(
            f"the weight of a part of a mixture is {shown(weight)}; give a number from "
            f"-{LARGEST:,.0f} to {LARGEST:,.0f}"
        )
    return Weighted(scorer, weight)


def _part_config(part: Weighted, beside: Parts | None) -> MixturePart:
    scorer = Scorer.of(part.scorer)
    if isinstance(part.scorer, MixtureScorer):
        raise _nested()
    shared = scorer.pair is None or (beside is not None and scorer.pair is beside.guides)
    guides = None if shared else config_of(scorer.pair, BaseGuidePair)
    return MixturePart(
        weight=part.weight, scorer=config_of(part.scorer, Scorer, beside=beside), guides=guides
    )


def _type_of(value: object) -> object:
    return cast("Mapping[str, object]", value).get("type") if isinstance(value, Mapping) else value


def _nested() -> ConfigError:
    return ConfigError(
        "a part of a mixture is a mixture itself; multiply its weights and list its parts"
    )
