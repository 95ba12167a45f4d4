"""A guided LLM as YAML: sections proposer, guide, scorer, strategy and generation."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
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
from w2s_chains.errors import ConfigError
from w2s_chains.faults import clear_errors, read_yaml
from w2s_chains.guides import GuidePair, HuggingFaceGuide
from w2s_chains.plugins import did_you_mean
from w2s_chains.proposers import HuggingFaceProposer
from w2s_chains.scorers import LogRatioScorer
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


class ScorerSection(BaseModel):
    """How partial answers are valued."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["log_ratio"] = "log_ratio"


class GenerationSection(SamplingParams):
    """How is sampled, and how many answers there are.

    Attributes:
        n: Answers per prompt.
    """

    n: int = Field(default=1, ge=1)


ModelType = Literal["llm", "chat"]

Options = TypeVar("Options", bound=ModelOptions)


class W2SConfig(BaseModel):
    """Everything that makes a guided model.

    Attributes:
        type: "llm" makes a ``W2SLLM``, "chat" a ``ChatW2S``, whose models use their chat templates
            where they have one, if their own ``chat`` says nothing else. Without it the class that
            reads the config decides; ``load`` makes a ``W2SLLM``.
        proposer: The large model.
        guide: The tuned and the untuned guide.
        scorer: Without this section the log-ratio of the guides, if there are any; null for none.
        strategy: How to search.
        generation: How to sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ModelType | None = None
    proposer: ModelSpec
    guide: GuideSection | None = None
    scorer: ScorerSection | None = None
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    generation: GenerationSection = GenerationSection()

    @field_validator("proposer", "guide")
    @classmethod
    def _chat_templates(cls, options: Options | None, info: ValidationInfo) -> Options | None:
        if options is None or info.data.get("type") != "chat":
            return options
        return _by_template(options)

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
        if scorer is not None and type(scorer) is not LogRatioScorer:
            raise _by_hand("scorer", scorer)
        pair = guide if scorer is None else scorer.pair
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
                tuned=_spec("tuned guide", pair.tuned), untuned=_spec("untuned guide", pair.untuned)
            )
        return cls(
            type=kind,
            proposer=_spec("proposer", proposer),
            guide=section,
            scorer=None if scorer is None else ScorerSection(),
            strategy=strategy,
            generation=generation,
        )

    @property
    def scored(self) -> bool:
        """Whether the log-ratio of the guides is the score."""
        if "scorer" in self.model_fields_set:
            return self.scorer is not None
        return self.guide is not None

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
        if self.scored and self.guide is None:
            raise ConfigError("scorer 'log_ratio' needs a section guide with tuned and untuned")

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
            fields["proposer"] = load(HuggingFaceProposer, self.proposer)
        if self.guide is not None and "guide" not in given:
            pair = GuidePair(*(load(HuggingFaceGuide, spec) for spec in self.guide.specs()))
            scored = self.scored and "scorer" not in given
            fields["scorer" if scored else "guide"] = LogRatioScorer(pair) if scored else pair
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


def _spec(role: str, part: Any) -> ModelSpec:
    spec = getattr(part, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise _by_hand(role, part)
    return spec.model_copy(update={"chat": spec.chat})  # given from now on, whatever the default


def _by_hand(role: str, part: object) -> ConfigError:
    return ConfigError(
        f"the {role} ({type(part).__name__}) was built by hand, so that no config can name it; "
        "load it with from_pretrained to write it to YAML"
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
    key = id(part)
    if key not in _labels:
        try:
            weakref.finalize(part, _labels.pop, key, None)
            kept = None
        except TypeError:  # no weak references to it: it is kept, so that its id is not used again
            kept = part
        _labels[key] = kept, f"{name}-{os.urandom(8).hex()}"
    return _labels[key][1]


# Reading and writing.


def load_config(config: str | Path | Mapping[str, Any]) -> W2SConfig:
    """Read a config.

    Raises:
        ConfigError: It is not valid; the message has every fault with file, line and choices.
    """
    if isinstance(config, Mapping):
        with clear_errors(W2SConfig, config, "config"):
            return W2SConfig.model_validate(config)
    path = Path(config)
    tree, values = read_yaml(path, W2SConfig.model_fields)
    with clear_errors(W2SConfig, values, str(path), tree):
        return W2SConfig.model_validate(values)


def sections_of(
    proposer: str, tuned: str | None, untuned: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat arguments as the sections of a config, and what belongs to the LLM itself."""
    models: dict[str, dict[str, Any]] = {"proposer": {}, "guide": {}, "tuned": {}, "untuned": {}}
    everywhere = {name: options[name] for name in ("device", "dtype") if name in options}
    sections: dict[str, Any] = {"generation": {}}
    fields: dict[str, Any] = {}
    for name, value in options.items():
        role, _, option = name.partition("_")
        if name in everywhere:
            continue
        if role in models and option:
            if option not in ModelOptions.model_fields:
                hint = did_you_mean(
                    name, [f"{role}_{field}" for field in ModelOptions.model_fields]
                )
                raise ConfigError(f"unknown option {name!r}{hint}")
            if role != "proposer" and tuned is None and untuned is None:
                raise ConfigError(f"option {name!r} is for a guide, but tuned and untuned are None")
            models[role][option] = value
        elif name in GenerationSection.model_fields:
            sections["generation"][name] = value
        elif name == "strategy":
            sections["strategy"] = value
        else:
            fields[name] = value
    sections["proposer"] = {"model": proposer, **everywhere, **models["proposer"]}
    if tuned is not None or untuned is not None:
        sections["guide"] = {
            name: {"model": model, **everywhere, **models["guide"], **models[name]}
            for name, model in (("tuned", tuned), ("untuned", untuned))
            if model is not None
        }
    return sections, fields


def _written(spec: ModelSpec, kind: ModelType | None) -> dict[str, Any]:
    always = {"chat": spec.chat} if kind == "chat" else {}  # its default is another one there
    return {**spec.model_dump(exclude_defaults=True), **always}


def write_config(config: W2SConfig, path: str | Path | None) -> dict[str, Any]:
    """The config as a plain mapping, written to ``path`` as YAML if there is one.

    Raises:
        ConfigError: A value has no form in YAML, or the file cannot be written.
    """
    values: dict[str, Any] = {} if config.type in (None, "llm") else {"type": config.type}
    values["proposer"] = _written(config.proposer, config.type)
    if config.guide is not None:
        values["guide"] = {
            name: _written(spec, config.type)
            for name, spec in zip(("tuned", "untuned"), config.guide.specs(), strict=True)
        }
        values["scorer"] = {"type": "log_ratio"} if config.scored else None
    values["strategy"] = config.strategy.model_dump(mode="json")
    values["generation"] = config.generation.model_dump(mode="json", exclude_none=True)
    if path is not None:
        try:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            Path(path).write_text(text, encoding="utf-8")
        except (yaml.YAMLError, OSError) as error:
            raise ConfigError(f"cannot write the config to {str(path)!r}: {error}") from error
    return values
