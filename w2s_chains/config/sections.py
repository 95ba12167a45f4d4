"""A guided LLM as YAML: sections proposer, guide, scorer, strategy and generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from w2s_chains.backend.loading.local_model import Loader, LocalModel
from w2s_chains.backend.loading.spec import Model
from w2s_chains.config.problems import clear_errors
from w2s_chains.config.scorer import AnyScorer, MixtureConfig
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import ConfigError
from w2s_chains.guides import GuidePair
from w2s_chains.guides.config import AnyGuide, Guides
from w2s_chains.proposers import PROPOSERS, AnyProposer, HuggingFaceProposer, ProposerConfig
from w2s_chains.scorers import (
    LogRatioConfig,
    ScorerConfig,
)
from w2s_chains.scorers.config import Parts
from w2s_chains.search import AnyStrategy, ChunkBeamSearch

Load = Callable[[type[LocalModel], Model], Any]


class GenerationSection(SamplingParams):
    """How is sampled, and how many answers there are.

    Attributes:
        n: Answers per prompt.
    """

    n: int = Field(default=1, ge=1)


ModelType = Literal["llm", "chat"]


class W2SConfig(BaseModel):
    """Everything that makes a guided model.

    Attributes:
        type: "llm" makes a ``W2SLLM``, "chat" a ``ChatW2S``, whose models use their chat templates
            where they have one, if their own ``chat`` says nothing else. Without it the class that
            reads the config decides; ``load`` makes a ``W2SLLM``.
        proposer: The large model; of type ``huggingface`` unless it says otherwise.
        guide: The tuned and the untuned guide, a shorthand for them, or the name of a preset.
        scorer: How partial answers are valued. Without this section the log-ratio of the guides, if
            there are any; null for none.
        strategy: How to search.
        generation: How to sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type: ModelType | None = None
    proposer: AnyProposer
    guide: AnyGuide | None = None
    scorer: AnyScorer | None = None
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    generation: GenerationSection = GenerationSection()

    @field_validator("proposer", "guide", "scorer", mode="before")
    @classmethod
    def _chat_templates(cls, section: Any, info: ValidationInfo) -> Any:
        if not isinstance(section, Mapping) or info.data.get("type") != "chat":
            return section
        if info.field_name == "guide":
            return _by_template(section)
        if info.field_name == "proposer":
            known = PROPOSERS.get(section.get("type", "huggingface"))
            takes = known is not None and "chat" in known.model_fields
            return {"chat": "auto", **section} if takes else section
        if section.get("type") != "mixture" or not isinstance(section.get("parts"), Sequence):
            return section
        parts = [
            {**part, "guide": _by_template(part["guide"])}
            if isinstance(part, Mapping) and "guide" in part
            else part
            for part in section["parts"]
        ]
        return {**section, "parts": parts}

    @property
    def scoring(self) -> ScorerConfig | None:
        """How partial answers are valued, whether it is said or not; None if they are not."""
        if "scorer" in self.model_fields_set:
            return self.scorer
        return None if self.guide is None else LogRatioConfig()

    def guide_sections(self) -> list[Guides]:
        """All guides that are loaded: of the section ``guide``, and of parts of a mixture."""
        parts = self.scoring.parts if isinstance(self.scoring, MixtureConfig) else ()
        return [s for s in (self.guide, *(part.guide for part in parts)) if s is not None]

    def overridden(self, fields: Mapping[str, Any]) -> W2SConfig:
        """This config with another ``strategy``, or other fields of ``generation``.

        Raises:
            ConfigError: A value is out of range.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        sampling = {name: value for name, value in fields.items() if name != "strategy"}
        values |= {"generation": {**dict(self.generation), **sampling}}
        if "strategy" in fields:
            values["strategy"] = fields["strategy"]
        with clear_errors(W2SConfig, values):
            return W2SConfig.model_validate(values)

    def check(self) -> None:
        """Raise ConfigError if a part is missing; no model is touched."""
        scoring = self.scoring
        if scoring is not None and scoring.needs_guides and self.guide is None:
            raise ConfigError(
                f"scorer {scoring.type!r} needs a section guide with tuned and untuned"
            )

    def build(
        self, given: Mapping[str, Any] = MappingProxyType({}), load: Load | None = None
    ) -> dict[str, Any]:
        """Load the models, equal weights once; returns the fields of ``Guided``.

        Args:
            given: Parts that are there already: they are not loaded.
            load: Loads a model; by default a ``Loader`` of its own.

        Raises:
            ConfigError: A scorer without guides.
            ModelNotFoundError: A reference leads nowhere.
            UnsupportedModelError: A model's cache cannot branch.
        """
        self.check()
        scoring = None if "scorer" in given else self.scoring
        if scoring is not None:
            scoring.preview()
        load = Loader() if load is None else load
        generation = {
            name: getattr(self.generation, name) for name in GenerationSection.model_fields
        }
        fields: dict[str, Any] = {"strategy": self.strategy, **generation}
        if "proposer" not in given:
            fields["proposer"] = (
                self.proposer.build()
                if isinstance(self.proposer, ProposerConfig)
                else load(HuggingFaceProposer, self.proposer)
            )
        pair = given.get("guide")
        if self.guide is not None and "guide" not in given:
            pair = GuidePair.from_specs(*self.guide.specs(), load=load)
        if scoring is not None and (pair is not None or not scoring.needs_guides):
            parts = Parts(proposer={**fields, **given}["proposer"], guides=pair)
            fields["scorer"] = (
                scoring.build_from(parts, load)
                if isinstance(scoring, MixtureConfig)
                else scoring.build_from(parts)
            )
        if "guide" not in given and getattr(fields.get("scorer"), "pair", None) is not pair:
            fields["guide"] = pair
        return fields


def _by_template(guide: Any) -> Any:
    """With the chat template where there is one, if ``chat`` says nothing else."""
    if not isinstance(guide, Mapping) or guide.keys() & {"preset", "base_url"}:
        return guide  # a preset has said how it reads prompts, a server has no template
    own = {name: _by_template(guide[name]) for name in ("tuned", "untuned") if name in guide}
    return {"chat": "auto", **guide, **own}
