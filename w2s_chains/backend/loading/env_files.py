"""The user's own YAML files, named by environment variables; they apply to all configs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from w2s_chains.errors import ConfigError, ModelNotFoundError

MODEL_PATHS = "W2S_MODEL_PATHS"
"""The environment variable that names a YAML file of hub ids and the folders of these models."""


def read_user_file(variable: str, what: str) -> tuple[Path, Mapping[str, Any]] | None:
    """Read the YAML file that an environment variable names.

    Args:
        variable: The environment variable.
        what: What the file maps to what, for messages.

    Returns:
        The file's path and its mapping; None if the variable is not set.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
    """
    name = os.environ.get(variable)
    if not name:
        return None
    path = Path(name).expanduser()
    values: Mapping[Any, Any] | list[Any] | str | float | None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{variable} names the file {name!r}, and {_why(error)}") from error
    values = {} if values is None else values
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{variable} names the file {name!r}, which must map {what}")
    return path, values


def _why(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"its line {error.problem_mark.line + 1} is broken YAML: {error.problem}"
    return f"it cannot be read: {error}"


def local_path(model: str) -> str:
    """Return the path that the file named by ``W2S_MODEL_PATHS`` gives for a model, else its name.

    A relative path is relative to the folder of that file.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
        ModelNotFoundError: There is nothing at the path.
    """
    found = read_user_file(MODEL_PATHS, "names of models to their folders")
    if found is None or model not in found[1]:
        return model
    path = found[0].parent / Path(str(found[1][model])).expanduser()
    if not path.exists():
        raise ModelNotFoundError(
            f"model {model!r} is saved at {str(path)!r}, says the file that {MODEL_PATHS} names, "
            "but nothing is there; correct the path, or remove the line to use the hub"
        )
    return str(path)
