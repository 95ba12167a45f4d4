"""The section ``scorer`` of a config: any scorer, or a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator

from w2s_chains.core.plugins import build_plugin
from w2s_chains.errors import ConfigError
from w2s_chains.guides import GuidePair
from w2s_chains.guides.config import AnyGuide
from w2s_chains.scorers import (
    SINGLE_SCORERS,
    LogRatioConfig,
    MixtureScorer,
    ScorerConfig,
    SingleScorer,
    Weighted,
)
from w2s_chains.scorers.adjustments import AdjustedScorerConfig, Weight
from w2s_chains.scorers.config import Parts


def nested() -> ConfigError:
    return ConfigError(
        "a part of a mixture is a mixture itself; multiply its weights and list its parts"
    )


class MixturePart(BaseModel):
    """One part of a mixture.

    Attributes:
        weight: What its score is multiplied with; a negative weight steers away.
        scorer: What scores; the log-ratio of the guides unless it says otherwise.
        guide: Guides of its own; by default those of the section ``guide``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: Weight = 1.0
    scorer: SingleScorer = LogRatioConfig()
    guide: AnyGuide | None = None

    @field_validator("scorer", mode="before")
    @classmethod
    def _no_mixture(cls, value: Any) -> Any:
        if isinstance(value, MixtureConfig) or (
            isinstance(value, Mapping) and value.get("type") == "mixture"
        ):
            raise nested()
        return value


class MixtureConfig(AdjustedScorerConfig):
    """A weighted sum of scores, such as the log-ratios of several pairs of guides.

    Attributes:
        parts: What is added up.
    """

    type: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[MixturePart, ...], Field(min_length=1)]

    @property
    def needs_guides(self) -> bool:
        return any(part.scorer.needs_guides and part.guide is None for part in self.parts)

    def preview(self) -> None:
        for part in self.parts:
            part.scorer.preview()

    def build_from(self, parts: Parts, load: Any = None) -> MixtureScorer:
        def built(part: MixturePart) -> Weighted:
            own = parts
            if part.guide is not None:
                pair = GuidePair.from_specs(*part.guide.specs(), load=load)
                own = replace(parts, guides=pair)
            return Weighted(part.scorer.build_from(own), part.weight)

        return MixtureScorer(
            [built(part) for part in self.parts],
            proposer=parts.proposer,
            base_weight=self.base_weight,
            repetition_penalty=self.repetition_penalty,
        )


SCORERS: Mapping[str, type[ScorerConfig]] = {**SINGLE_SCORERS, "mixture": MixtureConfig}


def build_scorer(value: Any) -> Any:
    """The config of a scorer from a mapping, which is of type ``log_ratio`` if it has none."""
    return build_plugin("scorers", value, SCORERS, default="log_ratio")


AnyScorer = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(build_scorer)]
"""A config slot for a scorer or a mixture of scorers."""
