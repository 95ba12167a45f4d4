"""Named guide pairs: the paper's, and those in the user's own file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.user_files import read_user_file

PRESETS = "W2S_PRESETS"
"""The environment variable that names a YAML file of further presets, like ``presets.yaml``."""


def presets() -> dict[str, Mapping[str, Any]]:
    """Return all presets, each as the contents of a section ``guides``.

    Raises:
        ConfigError: The file named by ``W2S_PRESETS`` cannot be read or has the wrong form.
    """
    text = files("w2s_chains.guides").joinpath("presets.yaml").read_text(encoding="utf-8")
    known: dict[str, Mapping[str, Any]] = yaml.safe_load(text)
    if (own := read_user_file(PRESETS, "names of presets to sections 'guide'")) is not None:
        path, values = own
        for name, value in values.items():
            if not isinstance(value, Mapping) or "preset" in value or name in known:
                why = (
                    "is built in; give it another name"
                    if name in known
                    else "must be a mapping such as {tuned: ..., untuned: ...}"
                )
                raise ConfigError(f"preset {shown(name)} in {str(path)!r} {why}")
            known[name] = value
    return known


def preset(name: str) -> Mapping[str, Any]:
    """Return the preset called ``name``.

    Raises:
        ConfigError: There is no such preset; the message lists the choices.
    """
    known = presets()
    if name not in known:
        raise ConfigError(f"unknown guide preset {shown(name)}{did_you_mean(name, known)}")
    return known[name]
