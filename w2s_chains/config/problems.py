"""What is wrong with a config or a call: one line for each fault, with file, line and choices."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from w2s_chains.backend.loading.spec import Model
from w2s_chains.config.scorer import SCORERS
from w2s_chains.config.yaml_lines import line_of
from w2s_chains.core.plugins import did_you_mean, find_plugin
from w2s_chains.errors import ConfigError
from w2s_chains.guides.config import Guides, section_type
from w2s_chains.guides.remote import RemoteGuideConfig
from w2s_chains.proposers import PROPOSERS, ProposerConfig
from w2s_chains.rewards import REWARDS, Reward
from w2s_chains.scorers import ScorerConfig
from w2s_chains.search import STRATEGIES, SearchStrategy

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
            line = line_of(tree, path) or 0
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
    if models[-1] is Guides and isinstance(node, Mapping):
        return section_type(node) or Guides
    if RemoteGuideConfig in models and not (isinstance(node, Mapping) and "base_url" in node):
        return Model
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
