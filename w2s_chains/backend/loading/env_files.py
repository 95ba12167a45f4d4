"""What a user keeps beside all configs: YAML files that environment variables name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from w2s_chains.errors import ConfigError, ModelNotFoundError

MODEL_PATHS = "W2S_MODEL_PATHS"
"""Hub ids, and the folders where these models are saved."""


def read_user_file(variable: str, what: str) -> tuple[Path, Mapping[str, Any]] | None:
    """The file that an environment variable names; None where it is not set.

    Args:
        variable: The environment variable.
        what: What the keys and values of its mapping are, for messages.

    Raises:
        ConfigError: It cannot be read, or is no mapping.
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
    """Where a model is saved, if the file that ``W2S_MODEL_PATHS`` names says so; else its name.

    A relative path counts from the folder of that file.

    Raises:
        ConfigError: The file cannot be read, or is no mapping.
        ModelNotFoundError: There is nothing at the path.
    """
    found = read_user_file(MODEL_PATHS, "names of models to their folders")
    if found is None or model not in found[1]:
        return model
    path = found[0].parent / Path(str(found[1][model])).expanduser()
    if not path.exists():
        raise ModelNotFoundError(
            f"model {model!r} is saved at {str(path)!r}, says the file that {MODEL_PATHS} names, "
            "but there is nothing; correct the path, or remove the line to use the hub"
        )
    return str(path)
