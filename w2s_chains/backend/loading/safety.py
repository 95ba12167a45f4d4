"""Refuse files that would run code of their own: pickles, and kernels from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from transformers import AttentionInterface
from transformers.utils import hub

from w2s_chains.errors import ConfigError, ModelNotFoundError

_attention = cast(Any, AttentionInterface)  # they are only partly typed
_cached_file = cast(Any, hub).cached_file
_INDEX = "model.safetensors.index.json"
_ADAPTER_CONFIG, _ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_CONVERT = (
    "w2s_chains never opens pickled weights (*.bin, *.pt); convert it once to safetensors, see "
    "cookbook/paper/README.md"
)


def check_safe(name: str, source: str, files: dict[str, Any], config: Any = None) -> None:
    """Check that loading a model opens no pickle and fetches no code.

    Args:
        name: The model's name, for messages.
        source: A folder or hub id, as ``locate`` gives it.
        files: The keyword arguments that ``locate`` gives.
        config: The model's config, whose fields name files and kernels.

    Raises:
        ModelNotFoundError: There are no weights in a safe format, or some of them are pickled.
        ConfigError: The config names an attention implementation that transformers does not have.
    """
    for implementation in _implementations(config):
        check_attention(implementation, f"the config of model {name!r}")
    if _find(source, files, _ADAPTER_CONFIG) and not _find(source, files, _ADAPTER):
        raise ModelNotFoundError(
            f"model {name!r} has an adapter ({_ADAPTER_CONFIG}) without {_ADAPTER}; {_CONVERT}"
        )
    if "gguf_file" in files:
        return
    folder = Path(source)
    explicit: str | None = getattr(config, "transformers_weights", None)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickled = any(folder.glob("*.bin"))
        why = f"only pickled weights (*.bin): {_CONVERT}" if pickled else "no *.safetensors"
        raise ModelNotFoundError(f"the folder of model {name!r} has {why}")
    used = [] if explicit is None else [explicit]
    for index in [_INDEX, *(file for file in used if file.endswith(".json"))]:
        used += _weights(_find(source, files, index))
    for file in used:
        if not file.endswith((".safetensors", ".safetensors.index.json")):
            raise ModelNotFoundError(f"model {name!r} has weights in {file!r}, and {_CONVERT}")


def check_attention(implementation: str, where: str) -> None:
    """Check that an attention implementation is one of transformers' own.

    Any other name, such as ``owner/repo:function``, is looked up on the hub and run.

    Args:
        implementation: The name.
        where: What names it, for messages.

    Raises:
        ConfigError: It is no name that this transformers knows.
    """
    known = {"eager", *_attention().valid_keys()}
    if implementation not in known:
        raise ConfigError(
            f"{where} names the attn_implementation {implementation!r}, which is none of "
            f"transformers' own, and w2s_chains runs no code from the hub; use one of: "
            f"{', '.join(sorted(known))}"
        )


def _implementations(config: Any) -> Iterator[str]:
    """Yield the attention implementations that a config and its parts name."""
    if named := getattr(config, "_attn_implementation", None):
        yield named
    for part in getattr(config, "sub_configs", None) or ():
        yield from _implementations(getattr(config, part, None))


def _find(source: str, files: dict[str, Any], name: str) -> Path | None:
    """Return a file of a model, fetched if it is on the hub; None if there is none."""
    if (folder := Path(source)).is_dir():
        return folder / name if (folder / name).is_file() else None
    found: str | None = _cached_file(
        source,
        name,
        revision=files.get("revision"),
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _weights(index: Path | None) -> list[str]:
    """Return the files that an index names; none if it cannot be read, which transformers says."""
    try:
        named: Any = {} if index is None else json.loads(index.read_bytes())["weight_map"]
        return sorted(set(named.values()))
    except (ValueError, TypeError, KeyError, AttributeError):
        return []
