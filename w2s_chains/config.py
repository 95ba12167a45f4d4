"""A guided LLM as YAML: sections proposer, guide, scorer, strategy and generation."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from w2s_chains.asks import SamplingParams
from w2s_chains.backend.local import Loader, LocalModel
from w2s_chains.backend.spec import ModelSpec
from w2s_chains.errors import ConfigError
from w2s_chains.faults import clear_errors
from w2s_chains.guides import GuidePair, HuggingFaceGuide, RemoteGuide
from w2s_chains.guides.section import AnyGuide, GuideSection, GuideSpec
from w2s_chains.proposers import PROPOSERS, AnyProposer, HuggingFaceProposer, ProposerConfig
from w2s_chains.scorer_section import AnyScorer, Mixture, Part, nested
from w2s_chains.scorers import (
    LoglikelihoodScorer,
    LogRatio,
    LogRatioScorer,
    MixtureScorer,
    RewardModelScorer,
    ScorerConfig,
)
from w2s_chains.scorers.base import Parts
from w2s_chains.search import AnyStrategy, ChunkBeamSearch, SearchStrategy

Load = Callable[[type[LocalModel], ModelSpec], Any]


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

    @classmethod
    def of_parts(
        cls,
        proposer: Any,
        scorer: Any,
        guide: Any,
        strategy: SearchStrategy,
        generation: GenerationSection,
        kind: ModelType | None = None,
    ) -> W2SConfig:
        """The config of parts that were loaded by name.

        Raises:
            ConfigError: A part was built by hand, or guide and scorer have different guides.
        """
        pair = getattr(scorer, "pair", guide)
        if guide is not None and guide is not pair:
            raise ConfigError(
                "guide and scorer.pair are different pairs, and a config names one; write it with "
                "guide=None or with scorer=None"
            )
        return cls(
            type=kind,
            proposer=_spec("proposer", proposer, ModelSpec | ProposerConfig),
            guide=None if pair is None else _section(pair),
            scorer=None if scorer is None else _scoring(scorer, pair, proposer),
            strategy=strategy,
            generation=generation,
        )

    @property
    def scoring(self) -> ScorerConfig | None:
        """How partial answers are valued, whether it is said or not; None if they are not."""
        if "scorer" in self.model_fields_set:
            return self.scorer
        return None if self.guide is None else LogRatio()

    def guide_sections(self) -> list[GuideSection]:
        """All guides that are loaded: of the section ``guide``, and of parts of a mixture."""
        parts = self.scoring.parts if isinstance(self.scoring, Mixture) else ()
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
                if isinstance(scoring, Mixture)
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


_OWN_OPTIONS = (LogRatioScorer, LoglikelihoodScorer, RewardModelScorer)
"""Scorers that have all that a config says about them in ``options``."""


def _scoring(scorer: Any, pair: Any, proposer: Any) -> ScorerConfig:
    """What a scorer was built from, beside the guides and the proposer of the config."""
    base = getattr(scorer, "base", None)
    if type(scorer) in (*_OWN_OPTIONS, MixtureScorer) and base not in (None, proposer):
        raise ConfigError(
            f"the scorer ({type(scorer).__name__}) takes the loglikelihood of another proposer "
            "than the one of this model, and a config names one"
        )
    if type(scorer) is MixtureScorer:
        parts: list[Part] = []
        for part in scorer.parts:
            if type(part.scorer) is MixtureScorer:
                raise nested()
            own = getattr(part.scorer, "pair", None)
            parts.append(
                Part(
                    weight=part.weight,
                    scorer=_scoring(part.scorer, pair, proposer),
                    guide=None if own in (None, pair) else _section(own),
                )
            )
        options = scorer.options
        return Mixture(
            parts=tuple(parts),
            base_weight=options.base_weight,
            repetition_penalty=options.repetition_penalty,
        )
    if type(scorer) in _OWN_OPTIONS:
        return scorer.options
    return _spec("scorer", scorer, ScorerConfig)


def _section(pair: Any) -> GuideSection:
    if type(pair) is not GuidePair:
        raise _by_hand("guide", pair)
    return GuideSection(
        tuned=_spec("tuned guide", pair.tuned, GuideSpec),
        untuned=_spec("untuned guide", pair.untuned, GuideSpec),
    )


def _spec(role: str, part: Any, kind: Any) -> Any:
    """What a part was built from."""
    spec = part if isinstance(part, BaseModel) else getattr(part, "spec", None)
    if not isinstance(spec, kind):
        raise _by_hand(role, part)
    if isinstance(spec, ModelSpec):
        return spec.model_copy(update={"chat": spec.chat})  # given from now on
    return spec


def _by_hand(role: str, part: object) -> ConfigError:
    return ConfigError(
        f"the {role} ({type(part).__name__}) was built by hand, so that no config can name it; "
        "load it with from_pretrained, or have a config build it, to write it to YAML"
    )


_labels: dict[int, tuple[object, str]] = {}
"""Parts built by hand, by identity: equal ones may still answer differently."""


def describe(part: object) -> str | None:
    """A name that two different parts never share; it holds for this process at least."""
    if part is None:
        return None
    name = type(part).__name__
    if type(part) in (*_OWN_OPTIONS, MixtureScorer):
        read = [describe(getattr(part, role, None)) for role in ("pair", "base")]
        parts = [(one.weight, describe(one.scorer)) for one in getattr(part, "parts", ())]
        return f"{name}({getattr(part, 'options', None)!r}, {read}, {parts})"
    if type(part) is GuidePair:
        return f"{name}({describe(part.tuned)}, {describe(part.untuned)})"
    spec = getattr(part, "spec", None)
    if type(part) in (HuggingFaceProposer, HuggingFaceGuide, RemoteGuide) and spec is not None:
        return f"{name}({spec.model_dump(exclude_defaults=True)})"
    config = part if isinstance(part, BaseModel) else spec
    if isinstance(config, ScorerConfig | ProposerConfig):
        fields = type(config).model_fields
        if not any(field.exclude for field in fields.values()):
            own = {name: getattr(config, name) for name in fields}
            return f"{type(part)!r}({own}, {describe(getattr(part, 'pair', None))})"
    key = id(part)
    if key not in _labels:
        try:
            weakref.finalize(part, _labels.pop, key, None)
            kept = None
        except TypeError:  # no weak references to it: it is kept, so that its id is not used again
            kept = part
        _labels[key] = kept, f"{name}-{os.urandom(8).hex()}"
    return _labels[key][1]
