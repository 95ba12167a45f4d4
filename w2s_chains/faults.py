"""What is wrong with a config or a call: one line for each fault, with file, line and choices."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from w2s_chains.backend.spec import ModelSpec
from w2s_chains.errors import ConfigError
from w2s_chains.guides.section import GuideSection, section_type
from w2s_chains.guides.served import ServedModel
from w2s_chains.plugins import did_you_mean, find_plugin
from w2s_chains.proposers import PROPOSERS, ProposerConfig
from w2s_chains.rewards import REWARDS, Reward
from w2s_chains.scorer_section import SCORERS
from w2s_chains.scorers import ScorerConfig
from w2s_chains.search import STRATEGIES, SearchStrategy


def read_yaml(path: Path, fields: Iterable[str]) -> tuple[yaml.Node | None, dict[str, Any]]:
    """A file that holds a mapping: the YAML with its line numbers, and its values.

    Args:
        path: The file.
        fields: What the mapping may have; for the message if it is none.

    Raises:
        ConfigError: It cannot be read, is broken, or no mapping; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read config {str(path)!r}: {error}") from error
    tree, values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        hint = did_you_mean("", fields)
        raise ConfigError(f"{path}:1: a config is a mapping with sections{hint}")
    return tree, values


def parse_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
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


_PLUGINS: dict[str, tuple[type[BaseModel], Mapping[str, type[BaseModel]], str | None]] = {
    "strategies": (SearchStrategy, STRATEGIES, None),
    "rewards": (Reward, REWARDS, None),
    "scorers": (ScorerConfig, SCORERS, "log_ratio"),
    "proposers": (ProposerConfig, PROPOSERS, "huggingface"),
}
"""Slots whose fields depend on the ``type`` that is written there, or that holds without one."""


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
        for fault in _causes(error):
            path = _path(fault, values)
            line = _line(tree, path) or 0
            where = ": ".join(filter(None, [source + (f":{line}" if line else ""), ".".join(path)]))
            told = faults.setdefault((line, where, _given(fault)), [])
            message = _message(fault, path, values, model)
            told += [] if message in told else [message]
        ordered = sorted(faults.items(), key=lambda item: item[0][0])
        lines = (f"{where}: {', or: '.join(told)}{given}" for (_, where, given), told in ordered)
        raise ConfigError("\n".join(lines)) from error


def _causes(error: ValidationError) -> list[Any]:
    """All faults, but lists that are too short only because what is in them is faulty."""
    faults = error.errors(include_url=False)
    return [
        fault
        for fault in faults
        if fault["type"] != "too_short"
        or not any(f is not fault and _within(f["loc"], fault["loc"]) for f in faults)
    ]


def _within(loc: Sequence[Any], outer: Sequence[Any]) -> bool:
    return tuple(loc[: len(outer)]) == tuple(outer)


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
    node: Any = values
    for step in path:
        # A step that is no field is a key of a mapping or the place in a list.
        field = _concrete(model, node).model_fields.get(step)
        inner = [] if field is None else list(_models(field.annotation))
        node = _inside(node, step)
        model = _form(inner, node) if inner else model
    of_plugin = any(issubclass(model, base) for base, _, _ in _PLUGINS.values())
    return {*(["type"] if of_plugin else []), *_concrete(model, node).model_fields}


def _concrete(model: type[BaseModel], node: Any) -> type[BaseModel]:
    """The class that a slot for plug-ins holds, by its ``type``; any other model as it is."""
    if isinstance(node, list | tuple):
        return model  # a list of such slots
    for kind, (base, builtin, default) in _PLUGINS.items():
        if issubclass(model, base):
            name = node.get("type", default) if isinstance(node, Mapping) else node.type
            plugin = find_plugin(kind, name, builtin)
            return plugin if hasattr(plugin, "model_fields") else model
    return model


def _form(models: Sequence[type[BaseModel]], node: Any) -> type[BaseModel]:
    """Which of the models that a field may hold is written there."""
    if models[-1] is GuideSection and isinstance(node, Mapping):
        return section_type(node) or GuideSection
    if ServedModel in models and not (isinstance(node, Mapping) and "base_url" in node):
        return ModelSpec
    return models[-1]


def _inside(node: Any, step: str) -> Any:
    if isinstance(node, Mapping):
        return node[step]
    return node[int(step)] if isinstance(node, list | tuple) else getattr(node, step)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


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
