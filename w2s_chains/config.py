"""A guided LLM as YAML: sections ``proposer``, ``guide``, ``scorer``, ``strategy``, ``generation``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from w2s_chains.asks import SamplingParams
from w2s_chains.backend.loading import ModelOptions, ModelSpec
from w2s_chains.errors import ConfigError
from w2s_chains.guides import GuidePair
from w2s_chains.plugins import did_you_mean
from w2s_chains.proposers import HuggingFaceProposer
from w2s_chains.scorers import LogRatioScorer
from w2s_chains.search import STRATEGIES, AnyStrategy, ChunkBeamSearch, SearchStrategy


class GuideSection(ModelOptions):
    """The guide pair; options beside ``tuned`` and ``untuned`` hold for those given by name.

    Attributes:
        tuned: Model reference, or a mapping of ``ModelSpec``.
        untuned: Likewise.
    """

    tuned: str | ModelSpec
    untuned: str | ModelSpec

    def build(self) -> GuidePair:
        shared = {name: getattr(self, name) for name in ModelOptions.model_fields}
        return GuidePair.from_pretrained(self.tuned, self.untuned, **shared)


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


class W2SConfig(BaseModel):
    """Everything that makes a guided LLM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    proposer: ModelSpec
    guide: GuideSection | None = None
    scorer: ScorerSection | None = None
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    generation: GenerationSection = GenerationSection()

    @classmethod
    def of_parts(
        cls,
        proposer: Any,
        guides: Any,
        strategy: SearchStrategy,
        generation: GenerationSection,
    ) -> W2SConfig:
        """The config of parts that were loaded by name.

        Raises:
            ConfigError: A part was built by hand.
        """
        guide = None
        if guides is not None:
            pair = {name: _spec(name, getattr(guides, name, None)) for name in ("tuned", "untuned")}
            guide = GuideSection(**pair)
        return cls(
            proposer=_spec("proposer", proposer),
            guide=guide,
            strategy=strategy,
            generation=generation,
        )

    def build(self) -> dict[str, Any]:
        """Load the models; returns the fields of ``W2SLLM``.

        Raises:
            ModelNotFoundError: A reference leads nowhere.
            UnsupportedModelError: A model's cache cannot branch.
        """
        if self.scorer is not None and self.guide is None:
            raise ConfigError("scorer 'log_ratio' needs a section guide with tuned and untuned")
        pair = None if self.guide is None else self.guide.build()
        generation = {
            name: getattr(self.generation, name) for name in GenerationSection.model_fields
        }
        return {
            "proposer": HuggingFaceProposer.from_spec(self.proposer),
            "scorer": None if pair is None else LogRatioScorer(pair),
            "strategy": self.strategy,
            **generation,
        }


def _spec(role: str, part: Any) -> ModelSpec:
    spec = getattr(part, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise ConfigError(
            f"the {role} ({type(part).__name__}) was built by hand, so that no config can name it; "
            "load it with from_pretrained to write it to YAML"
        )
    return spec


_labels: WeakKeyDictionary[object, str] = WeakKeyDictionary()


def describe(part: object) -> str | None:
    """A name that two different parts never share; it holds for this process at least."""
    if part is None:
        return None
    inner = [getattr(part, name) for name in ("pair", "tuned", "untuned") if hasattr(part, name)]
    if inner:
        return f"{type(part).__name__}({', '.join(str(describe(own)) for own in inner)})"
    spec = getattr(part, "spec", None)
    if isinstance(spec, ModelSpec):
        options = spec.model_dump(exclude_defaults=True)
        return f"{type(part).__name__}({options})"
    return _labels.setdefault(part, f"{type(part).__name__}-{os.urandom(8).hex()}")


# Reading and writing.


def load_config(config: str | Path | Mapping[str, Any]) -> W2SConfig:
    """Read a config.

    Raises:
        ConfigError: It is not valid; the message has every fault with file, line and choices.
    """
    if isinstance(config, Mapping):
        return _validate(config, "config", None)
    path = Path(config)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config {str(path)!r}: {error}") from error
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(tree, str(path))
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: broken YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: broken YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{path}: a config is a mapping{did_you_mean('', W2SConfig.model_fields)}"
        )
    return _validate(values, str(path), tree)


def write_config(config: W2SConfig, path: str | Path | None) -> dict[str, Any]:
    """The config as a plain mapping, written to ``path`` as YAML if there is one."""
    values: dict[str, Any] = {"proposer": config.proposer.model_dump(exclude_defaults=True)}
    if config.guide is not None:
        values["guide"] = config.guide.model_dump(exclude_defaults=True)
        values["scorer"] = {"type": "log_ratio"}
    values["strategy"] = config.strategy.model_dump(mode="json")
    values["generation"] = config.generation.model_dump(mode="json", exclude_none=True)
    if path is not None:
        try:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as error:
            raise ConfigError(f"the config cannot be written as YAML: {error}") from error
        Path(path).write_text(text, encoding="utf-8")
    return values


def _validate(values: Mapping[str, Any], source: str, tree: yaml.Node | None) -> W2SConfig:
    try:
        return W2SConfig.model_validate(values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    except ValidationError as error:
        faults = [_fault(fault, values, source, tree) for fault in error.errors()]
        raise ConfigError("\n".join(faults)) from error


def _fault(fault: Any, values: Mapping[str, Any], source: str, tree: yaml.Node | None) -> str:
    """One line: file and line, path in the config, what is wrong, what would be right."""
    path = [str(step) for step in fault["loc"]]
    line = _line(tree, path)
    where = source if line is None else f"{source}:{line}"
    name = ".".join(path)
    if fault["type"] == "extra_forbidden":
        return f"{where}: {name}: unknown field{did_you_mean(path[-1], _fields(path[:-1], values))}"
    if fault["type"] == "missing":
        return f"{where}: {name}: this field is missing"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], Mapping) else f" (got {fault['input']!r})"
    return f"{where}: {name}: {message}{given}"


def _fields(path: list[str], values: Mapping[str, Any]) -> Iterable[str]:
    """The fields that a section may have."""
    section = path[0] if path else ""
    if section == "strategy":
        strategy = values.get("strategy")
        kind = strategy.get("type") if isinstance(strategy, Mapping) else None
        return STRATEGIES[kind].model_fields if kind in STRATEGIES else ["type"]
    if section == "guide" and len(path) > 1:
        return ModelSpec.model_fields
    sections: dict[str, type[BaseModel]] = {
        "": W2SConfig,
        "proposer": ModelSpec,
        "guide": GuideSection,
        "scorer": ScorerSection,
        "generation": GenerationSection,
    }
    return sections[section].model_fields


def _line(tree: yaml.Node | None, path: list[str]) -> int | None:
    """The line where the value at ``path`` is written, or its nearest enclosing one."""
    if tree is None:
        return None
    node, line = tree, tree.start_mark.line + 1
    for step in path:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == step:
                node, line = value, key.start_mark.line + 1
                break
        else:
            break
    return line


def _refuse_duplicates(node: yaml.Node | None, source: str) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            where = f"{source}:{key.start_mark.line + 1}"
            raise ConfigError(f"{where}: {key.value!r} is written twice; keep one of them")
        seen.add(key.value)
        _refuse_duplicates(value, source)
