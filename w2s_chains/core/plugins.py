"""Looks up the classes that a config names: built-in ones, then those of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from w2s_chains.errors import ConfigError

_SINGULAR = {
    "strategies": "strategy",
    "scorers": "scorer",
    "proposers": "proposer",
    "rewards": "reward",
}


class Plugin(BaseModel):
    """A part that is its own config: a frozen pydantic model with a literal ``type``.

    The ``type`` is the name under which a config asks for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Any

    @model_serializer(mode="wrap")
    def _with_type(self, others: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"type": self.type, **others(self)}  # whatever a dump leaves out


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint that ends an error message: the closest choice, and all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (choices: {', '.join(choices)})"


def find_plugin(kind: str, name: str, builtin: Mapping[str, type[Any]]) -> type[Any]:
    """The class called ``name``: built in, or an entry point of group ``w2s_chains.{kind}``.

    Nothing else is ever imported because a config names it.

    Raises:
        ConfigError: No such class, with the choices; or its package cannot be imported.
    """
    if name in builtin:
        return builtin[name]
    found = {point.name: point for point in entry_points(group=f"w2s_chains.{kind}")}
    if name not in found:
        hint = did_you_mean(name, [*builtin, *found])
        raise ConfigError(f"unknown {_SINGULAR[kind]} type {name!r}{hint}")
    try:
        return found[name].load()
    except Exception as error:
        raise ConfigError(
            f"{_SINGULAR[kind]} {name!r} cannot be imported from {found[name].value!r}: {error!r}; "
            "repair or remove the package that brings it"
        ) from error


def all_plugins(kind: str, builtin: Mapping[str, type[Any]]) -> dict[str, type[Any]]:
    """All classes of a kind by their names: built-in ones, then those of installed packages.

    Raises:
        ConfigError: The package of one cannot be imported.
    """
    names = [*builtin, *sorted(point.name for point in entry_points(group=f"w2s_chains.{kind}"))]
    return {name: find_plugin(kind, name, builtin) for name in names}


def build_plugin(
    kind: str,
    value: Any,
    builtin: Mapping[str, type[BaseModel]],
    context: Any = None,
    wrap: Callable[[str, Any], type[BaseModel] | None] | None = None,
    default: str | None = None,
) -> Any:
    """What a config slot holds: an object as it is, or a mapping with a ``type`` as its object.

    Args:
        kind: The plural of what it is, as in the entry point group.
        value: What the user wrote.
        builtin: The classes that need no entry point.
        context: Passed on to pydantic's validation.
        wrap: Makes a class of what an entry point holds, where that is none.
        default: The type of a mapping that has none.

    Raises:
        ConfigError: The mapping has no ``type``, or one that is unknown or cannot be built.
    """
    if not isinstance(value, Mapping | str):
        return value
    name = value.get("type", default) if isinstance(value, Mapping) else None
    if not isinstance(name, str):
        hint = did_you_mean("", builtin)
        raise ConfigError(
            f"a {_SINGULAR[kind]} is an object, or a mapping with a field 'type'{hint}"
        )
    plugin: Any = find_plugin(kind, name, builtin)
    if wrap is not None:
        plugin = wrap(name, plugin) or plugin
    if not (isinstance(plugin, type) and issubclass(plugin, BaseModel)):
        raise ConfigError(
            f"{_SINGULAR[kind]} {name!r} is {plugin!r}, which a config cannot build; it must be a "
            "pydantic model"
        )
    return plugin.model_validate(value, context=context)
