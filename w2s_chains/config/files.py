"""Configs as files, mappings and flat arguments: reading and writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2s_chains.config.problems import clear_errors
from w2s_chains.config.sections import ModelType, W2SConfig
from w2s_chains.config.yaml_lines import read_yaml


def load_config(config: str | Path | Mapping[str, Any], kind: ModelType | None = None) -> W2SConfig:
    """Read a config.

    Args:
        config: A YAML file, or a mapping of the same form.
        kind: The type of a config that says none.

    Raises:
        ConfigError: It is not valid; the message has every fault with file, line and choices.
    """
    if isinstance(config, Mapping):
        with clear_errors(W2SConfig, config, "config"):
            return W2SConfig.model_validate({"type": kind, **config})
    path = Path(config)
    tree, values = read_yaml(path, W2SConfig.model_fields)
    with clear_errors(W2SConfig, values, str(path), tree):
        return W2SConfig.model_validate({"type": kind, **values})
