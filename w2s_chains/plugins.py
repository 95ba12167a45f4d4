"""Looks up the classes that a config names: built-in ones, then those of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel

from w2s_chains.errors import ConfigError

_SINGULAR = {"strategies": "strategy", "scorers": "scorer", "proposers": "proposer"}


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint that ends an error message: the closest choice, and all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (choices: {', '.join(choices)})"


def find_plugin(kind: str, name: str, builtin: Mapping[str, type[Any]]) -> type[Any]:
    """The class called ``name``: built in, or an entry point of group ``w2s_chains.{kind}``.

    Nothing else is ever imported because a config names it.

    Raises:
        ConfigError: No such class; the message lists the choices.
    """
    if name in builtin:
        return builtin[name]
    found = {point.name: point for point in entry_points(group=f"w2s_chains.{kind}")}
    if name in found:
        return found[name].load()
    hint = did_you_mean(name, [*builtin, *found])
    raise ConfigError(f"unknown {_SINGULAR[kind]} type {name!r}{hint}")


def build_plugin(kind: str, value: Any, builtin: Mapping[str, type[BaseModel]]) -> Any:
    """What a config slot holds: an object as it is, or a mapping with a ``type`` as its object.

    Raises:
        ConfigError: The mapping has no ``type``, or names an unknown one.
    """
    if not isinstance(value, Mapping):
        return value
    name = value.get("type")
    if not isinstance(name, str):
        hint = did_you_mean("", builtin)
        raise ConfigError(f"a {_SINGULAR[kind]} needs a field 'type'{hint}")
    return find_plugin(kind, name, builtin).model_validate(value)
