"""The user's own YAML files, named by environment variables; they apply to all configs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2s_chains.errors import ConfigError, ModelNotFoundError
from w2s_chains.user_files import parse_yaml, read_text

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
    try:
        values: Any = parse_yaml(read_text(path, "file"), str(path))[1]
    except ConfigError as error:
        raise ConfigError(f"{variable} names the file {name!r}: {error}") from error
    found: Mapping[Any, Any] | None = {} if values is None else values
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{variable} names the file {name!r}, which must map {what}")
    return path, found


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
