"""A guided LLM as YAML: sections proposer, guide, scorer, strategy and generation."""

from __future__ import annotations

import os
import weakref
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from w2s_chains.asks import SamplingParams
from w2s_chains.backend.loading import ModelName, ModelOptions, ModelSpec
from w2s_chains.errors import ConfigError
from w2s_chains.guides import GuidePair, HuggingFaceGuide
from w2s_chains.plugins import did_you_mean, find_plugin
from w2s_chains.proposers import HuggingFaceProposer
from w2s_chains.scorers import LogRatioScorer
from w2s_chains.search import STRATEGIES, AnyStrategy, ChunkBeamSearch, SearchStrategy

ModelRef = Annotated[
    Annotated[ModelName, Tag("name")] | Annotated[ModelSpec, Tag("spec")],
    Discriminator(lambda value: "name" if isinstance(value, str | os.PathLike) else "spec"),
]
"""A model by name alone, or with options of its own."""


class GuideSection(ModelOptions):
    """The guide pair; options beside ``tuned`` and ``untuned`` hold for those given by name.

    Attributes:
        tuned: Model reference, or a mapping of ``ModelSpec``.
        untuned: Likewise.
    """

    tuned: ModelRef
    untuned: ModelRef

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
    """Everything that makes a guided LLM.

    Attributes:
        proposer: The large model.
        guide: The tuned and the untuned guide.
        scorer: Without this section the log-ratio of the guides, if there are any; null for none.
        strategy: How to search.
        generation: How to sample.
    """

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
        scorer: Any,
        guide: Any,
        strategy: SearchStrategy,
        generation: GenerationSection,
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
        """This config with another ``strategy`` or other fields of ``generation``.

        Raises:
            ConfigError: A value is out of range.
        """
        values: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        sampling = {name: value for name, value in fields.items() if name != "strategy"}
        values["generation"] = {**dict(self.generation), **sampling}
        if "strategy" in fields:
            values["strategy"] = fields["strategy"]
        with clear_errors(W2SConfig, values):
            return W2SConfig.model_validate(values)

    def build(self, given: Collection[str] = ()) -> dict[str, Any]:
        """Load the models; returns the fields of ``W2SLLM``.

        Args:
            given: Parts that need not be built.

        Raises:
            ConfigError: A scorer without guides.
            ModelNotFoundError: A reference leads nowhere.
            UnsupportedModelError: A model's cache cannot branch.
        """
        if self.scored and self.guide is None:
            raise ConfigError("scorer 'log_ratio' needs a section guide with tuned and untuned")
        generation = {
            name: getattr(self.generation, name) for name in GenerationSection.model_fields
        }
        fields: dict[str, Any] = {"strategy": self.strategy, **generation}
        if "proposer" not in given:
            fields["proposer"] = HuggingFaceProposer.from_spec(self.proposer)
        if self.guide is not None and "guide" not in given:
            pair = self.guide.build()
            scored = self.scored and "scorer" not in given
            fields["scorer" if scored else "guide"] = LogRatioScorer(pair) if scored else pair
        return fields


def _spec(role: str, part: Any) -> ModelSpec:
    spec = getattr(part, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise _by_hand(role, part)
    return spec


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
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read config {str(path)!r}: {error}") from error
    tree, values = _parse(text, str(path))
    if not isinstance(values, Mapping):
        hint = did_you_mean("", W2SConfig.model_fields)
        raise ConfigError(f"{path}:1: a config is a mapping with sections{hint}")
    with clear_errors(W2SConfig, values, str(path), tree):
        return W2SConfig.model_validate(values)


def write_config(config: W2SConfig, path: str | Path | None) -> dict[str, Any]:
    """The config as a plain mapping, written to ``path`` as YAML if there is one.

    Raises:
        ConfigError: A value has no form in YAML, or the file cannot be written.
    """
    values: dict[str, Any] = {"proposer": config.proposer.model_dump(exclude_defaults=True)}
    if config.guide is not None:
        values["guide"] = config.guide.model_dump(exclude_defaults=True)
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


def _parse(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """The YAML with its line numbers, and its values."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(tree, source)
        return tree, yaml.safe_load(text)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise ConfigError(f"{where}: broken YAML: {problem}") from error
    except Exception as error:  # a bad tagged value (!!int "") makes PyYAML raise all kinds
        raise ConfigError(f"{source}: broken YAML: {error}") from error


# What is wrong, in one line for each fault.


@contextmanager
def clear_errors(
    model: type[BaseModel],
    values: Mapping[str, Any],
    source: str = "",
    tree: yaml.Node | None = None,
) -> Generator[None]:
    """Turn pydantic's errors about ``values`` into a ConfigError.

    Args:
        model: What ``values`` are validated as.
        values: What the user wrote.
        source: Where: a file, or the name of what was called.
        tree: The YAML, for its line numbers.
    """
    try:
        yield
    except ValidationError as error:
        faults: dict[tuple[int, str, str], list[str]] = {}
        for fault in error.errors(include_url=False):
            path = _path(fault, values)
            line = _line(tree, path) or 0
            where = ": ".join(filter(None, [source + (f":{line}" if line else ""), ".".join(path)]))
            told = faults.setdefault((line, where, _given(fault)), [])
            message = _message(fault, path, values, model)
            told += [] if message in told else [message]
        ordered = sorted(faults.items(), key=lambda item: item[0][0])
        lines = (f"{where}: {', or: '.join(told)}{given}" for (_, where, given), told in ordered)
        raise ConfigError("\n".join(lines)) from error


def _path(fault: Any, values: Mapping[str, Any]) -> list[str]:
    """Where the fault is in what the user wrote; pydantic also names the branches of unions."""
    node: Any = values
    path = []
    for i, step in enumerate(fault["loc"]):
        last = i + 1 == len(fault["loc"])
        if (isinstance(node, Mapping) and step in node) or (
            isinstance(node, list | tuple) and step in range(len(node))
        ):
            node = node[step]
        elif not (last and fault["type"] in ("missing", "extra_forbidden")):
            continue
        path.append(str(step))
    return path


def _message(
    fault: Any, path: Sequence[str], values: Mapping[str, Any], model: type[BaseModel]
) -> str:
    if fault["type"] == "extra_forbidden":
        return f"unknown field{did_you_mean(path[-1], _fields(path[:-1], values, model))}"
    if fault["type"] == "missing":
        return "this field is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "is_instance_of":
        message += "; build one, or load models by name with from_pretrained or from_config"
    return message


def _given(fault: Any) -> str:
    """The value, where the message does not tell enough without."""
    telling = fault["type"] in ("extra_forbidden", "missing", "value_error")
    return "" if telling or isinstance(fault["input"], Mapping) else f" (got {fault['input']!r})"


def _fields(
    path: Sequence[str], values: Mapping[str, Any], model: type[BaseModel]
) -> Iterable[str]:
    """The fields there may be at ``path``."""
    if not path:
        return model.model_fields
    if path[0] == "strategy":
        strategy = values["strategy"]
        kind = strategy["type"] if isinstance(strategy, Mapping) else strategy.type
        return find_plugin("strategies", kind, STRATEGIES).model_fields
    sections: dict[str, type[BaseModel]] = {
        "proposer": ModelSpec,
        "guide": GuideSection if len(path) == 1 else ModelSpec,
        "scorer": ScorerSection,
        "generation": GenerationSection,
    }
    return sections[path[0]].model_fields


def _line(tree: yaml.Node | None, path: Sequence[str]) -> int | None:
    """The line where the value at ``path`` is written, or its nearest enclosing one."""
    if tree is None:
        return None
    node, line = tree, tree.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if key.value == step:
                node, line = value, key.start_mark.line + 1
                break
        else:
            break
    return line


def _refuse_duplicates(tree: yaml.Node | None, source: str) -> None:
    nodes: list[yaml.Node | None] = [tree]
    seen: set[int] = set()  # an alias leads to a node that was there before, perhaps above
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(node, yaml.MappingNode):
            continue
        seen.add(id(node))
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    where = f"{source}:{key.start_mark.line + 1}"
                    raise ConfigError(f"{where}: {key.value!r} is written twice; keep one of them")
                names.add(key.value)
            nodes.append(value)
