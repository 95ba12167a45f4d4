"""``load``: build the model that a config describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.langchain.chat_models import ChatW2S
from w2s_chains.langchain.llms import W2SLLM


def load(config: str | Path | Mapping[str, Any], **fields: Any) -> W2SLLM | ChatW2S:
    """Build a ``W2SLLM``, or a ``ChatW2S`` if the config has ``type: chat``.

    Args:
        config: A YAML file, or a mapping of the same form.
        **fields: Fields of that class, which override the config; parts given here are not loaded.

    Raises:
        ConfigError: The config is not valid; the message gives file and line.
        ModelNotFoundError: A model cannot be found.
        UnsupportedModelError: A model's cache cannot branch.
    """
    kind = ChatW2S if load_config(config).type == "chat" else W2SLLM
    return kind.from_config(config, **fields)


def built(config: W2SConfig, **fields: Any) -> W2SLLM | ChatW2S:
    """Build the model of a config that was read; ``fields`` and errors are those of ``load``."""
    kind = ChatW2S if config.type == "chat" else W2SLLM
    return kind(**{**config.fields(), **config.unscored(fields), **fields})
