"""A guided LLM as YAML: sections proposer, guide, scorer, strategy and generation."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from w2s_chains.asks import SamplingParams
from w2s_chains.backend.loading import ModelName, ModelOptions, ModelSpec
from w2s_chains.backend.local import LocalModel
from w2s_chains.backend.text import PromptTemplate
from w2s_chains.errors import ConfigError
from w2s_chains.faults import clear_errors
from w2s_chains.guides import GuidePair, HuggingFaceGuide
from w2s_chains.proposers import AnyProposer, HuggingFaceProposer, ProposerConfig
from w2s_chains.scorers import AnyScorer, LogRatio, LogRatioScorer, ScorerConfig
from w2s_chains.search import AnyStrategy, ChunkBeamSearch, SearchStrategy

ModelRef = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[ModelSpec, Tag("spec")],
    Discriminator(lambda value: "name" if isinstance(value, str | os.PathLike) else "spec"),
]
"""A model by name alone, or with options of its own."""


Load = Callable[[type[LocalModel], ModelSpec], Any]


def load_part(part: type[LocalModel], spec: ModelSpec) -> Any:
    return part.from_spec(spec)


class GuideSection(ModelOptions):
    """The guide pair; options beside ``tuned`` and ``untuned`` hold for those given by name.

    Attributes:
        tuned: Model reference, or a mapping of ``ModelSpec``.
        untuned: Likewise.
    """

    tuned: ModelRef
    untuned: ModelRef

    def specs(self) -> tuple[ModelSpec, ModelSpec]:
        """What the tuned and the untuned guide are loaded from."""
        given = self.model_fields_set & set(ModelOptions.model_fields)
        shared = {name: getattr(self, name) for name in given}
        tuned, untuned = (
            ref if isinstance(ref, ModelSpec) else ModelSpec(model=ref, **shared)
            for ref in (self.tuned, self.untuned)
        )
        return tuned, untuned


class GenerationSection(SamplingParams):
    """How is sampled, and how many answers there are.

    Attributes:
        n: Answers per prompt.
    """

    n: int = Field(default=1, ge=1)


ModelType = Literal["llm", "chat"]

Options = TypeVar("Options", bound=PromptTemplate)


class W2SConfig(BaseModel):
    """Everything that makes a guided model.

    Attributes:
        type: "llm" makes a ``W2SLLM``, "chat" a ``ChatW2S``, whose models use their chat templates
            where they have one, if their own ``chat`` says nothing else. Without it the class that
            reads the config decides; ``load`` makes a ``W2SLLM``.
        proposer: The large model; of type ``huggingface`` unless it says otherwise.
        guide: The tuned and the untuned guide.
        scorer: How partial answers are valued. Without this section the log-ratio of the guides, if
            there are any; null for none.
        strategy: How to search.
        generation: How to sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type: ModelType | None = None
    proposer: AnyProposer
    guide: GuideSection | None = None
    scorer: AnyScorer | None = None
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    generation: GenerationSection = GenerationSection()

    @field_validator("proposer", "guide")
    @classmethod
    def _chat_templates(cls, options: Any, info: ValidationInfo) -> Any:
        if isinstance(options, PromptTemplate) and info.data.get("type") == "chat":
            return _by_template(options)
        return options

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
        section = None
        if pair is not None:
            if type(pair) is not GuidePair:
                raise _by_hand("guide", pair)
            section = GuideSection(
                tuned=_spec("tuned guide", pair.tuned, ModelSpec),
                untuned=_spec("untuned guide", pair.untuned, ModelSpec),
            )
        return cls(
            type=kind,
            proposer=_spec("proposer", proposer, ModelSpec | ProposerConfig),
            guide=section,
            scorer=None if scorer is None else _spec("scorer", scorer, ScorerConfig),
            strategy=strategy,
            generation=generation,
        )

    @property
    def scoring(self) -> ScorerConfig | None:
        """How partial answers are valued, whether it is said or not; None if they are not."""
        if "scorer" in self.model_fields_set:
            return self.scorer
        return None if self.guide is None else LogRatio()

    def overridden(self, fields: Mapping[str, Any]) -> W2SConfig:
        """This config with another ``type`` or ``strategy``, or other fields of ``generation``.

        Raises:
            ConfigError: A value is out of range.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        own = {name: value for name, value in fields.items() if name in ("type", "strategy")}
        sampling = {name: value for name, value in fields.items() if name not in own}
        values |= {**own, "generation": {**dict(self.generation), **sampling}}
        with clear_errors(W2SConfig, values):
            return W2SConfig.model_validate(values)

    def check(self) -> None:
        """Raise ConfigError if a part is missing; no model is touched."""
        scoring = self.scoring
        if scoring is not None and scoring.needs_guides and self.guide is None:
            raise ConfigError(
                f"scorer {scoring.type!r} needs a section guide with tuned and untuned"
            )

    def build(self, given: Collection[str] = (), load: Load = load_part) -> dict[str, Any]:
        """Load the models; returns the fields of ``Guided``.

        Args:
            given: Parts that need not be built.
            load: Loads a model; by default anew for each part.

        Raises:
            ConfigError: A scorer without guides.
            ModelNotFoundError: A reference leads nowhere.
            UnsupportedModelError: A model's cache cannot branch.
        """
        self.check()
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
        pair = None
        if self.guide is not None and "guide" not in given:
            pair = GuidePair(*(load(HuggingFaceGuide, spec) for spec in self.guide.specs()))
        scoring = None if "scorer" in given else self.scoring
        if scoring is not None and (pair is not None or not scoring.needs_guides):
            fields["scorer"] = scoring.build(pair)
        if getattr(fields.get("scorer"), "pair", None) is not pair:
            fields["guide"] = pair
        return fields


def _by_template(options: Options) -> Options:
    """With the chat template where there is one, if ``chat`` says nothing else."""
    changed: dict[str, Any] = {}
    if "chat" not in options.model_fields_set:
        changed["chat"] = "auto"
    if isinstance(options, GuideSection):
        refs = {"tuned": options.tuned, "untuned": options.untuned}
        changed |= {n: _by_template(ref) for n, ref in refs.items() if isinstance(ref, ModelSpec)}
    return options.model_copy(update=changed)


def _spec(role: str, part: Any, kind: Any) -> Any:
    """What a part was built from."""
    if type(part) is LogRatioScorer:
        return LogRatio()
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
    if type(part) is LogRatioScorer:
        return f"{name}({describe(part.pair)})"
    if type(part) is GuidePair:
        return f"{name}({describe(part.tuned)}, {describe(part.untuned)})"
    spec = getattr(part, "spec", None)
    if type(part) in (HuggingFaceProposer, HuggingFaceGuide) and spec is not None:
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
