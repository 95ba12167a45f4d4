"""Find the files of models: hub ids, local folders, GGUF files, ``embedded:NAME``, adapters."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import huggingface_hub
from huggingface_hub import hf_hub_url, try_to_load_from_cache

from w2s_chains.backend.lm.adapters import CONFIG, WEIGHTS
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.backend.loading.env_files import local_path
from w2s_chains.errors import (
    ConfigError,
    ModelNotFoundError,
    UnsupportedModelError,
    W2SError,
    brief,
)

_hub = cast(Any, huggingface_hub)  # it is only partly typed
get_hf_file_metadata, hf_hub_download = _hub.get_hf_file_metadata, _hub.hf_hub_download

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_TIMEOUT = 10.0
"""Seconds to wait for an answer from the hub."""


@contextmanager
def clear_errors_of(name: str) -> Generator[None]:
    """Turn any error that transformers raises while it loads ``name`` into a ``W2SError``."""
    try:
        yield
    except W2SError:
        raise
    except OSError as error:
        raise ModelNotFoundError(
            f"model {name!r} cannot be loaded: {brief(error)}; give a hub id that you "
            "can reach, a local folder with config.json, *.safetensors and a tokenizer, a .gguf "
            "file, or 'embedded:NAME'"
        ) from error
    except Exception as error:  # a broken file or a missing package may raise anything
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"model {name!r} needs code from its own repository, which w2s_chains never "
                "runs; use a model that transformers supports by itself"
            ) from error
        raise ConfigError(f"model {name!r} cannot be loaded: {brief(error)}") from error


def check_complete(name: str, found: dict[str, Any], kind: str) -> None:
    """Raise ConfigError if a checkpoint lacks weights, which transformers would fill in at random.

    Args:
        name: The model's name, for messages.
        found: The loading info of transformers.
        kind: What the model should be, for messages.
    """
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"model {name!r} is no {kind}: its files have no weights for "
            f"{brief(', '.join(missing))}, which would be random; use a complete checkpoint"
        )


def check_safe(name: str, source: str, files: dict[str, Any]) -> None:
    """Raise ModelNotFoundError if a local folder has no weights in a safe format.

    Models on the hub are checked when their weights are fetched.
    """
    folder = Path(source)
    if "gguf_file" in files or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    why = "no *.safetensors"
    if any(folder.glob("*.bin")):
        why = (
            "only pickled weights (*.bin), which w2s_chains never opens; convert it once to "
            "safetensors, see cookbook/paper/README.md"
        )
    raise ModelNotFoundError(f"the folder of model {name!r} has {why}")


def locate(
    name: str, revision: str | None = None, file: str = "config.json"
) -> tuple[str, dict[str, Any]]:
    """Find a model, and return the arguments for ``from_pretrained``.

    Args:
        name: Hub id, local folder, GGUF file, or ``embedded:NAME``. If the YAML file named by
            ``W2S_MODEL_PATHS`` lists it, that file's path is used instead.
        revision: Branch, tag or commit on the hub.
        file: A file that every such model on the hub has.

    Returns:
        A folder or hub id, and keyword arguments that name the GGUF file or the revision.

    Raises:
        ModelNotFoundError: There is no such model.
        ConfigError: A revision is given for something that is not on the hub.
    """
    path = Path(local_path(name)).expanduser()
    found: tuple[str, dict[str, Any]]
    if name.startswith("embedded:"):
        found = str(embedded_path(name.removeprefix("embedded:"))), {}
    elif path.suffix == ".gguf" and path.is_file():
        found = str(path.parent), {"gguf_file": path.name}
    elif path.is_dir():
        found = str(path), {}
    elif path.suffix == ".gguf" or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"model {name!r} is neither a file nor a folder here, and no hub id (owner/name); "
            "check the path, or use 'embedded:NAME' for a model that comes with w2s_chains"
        )
    else:
        _reach_hub(name, revision, file)
        return name, {} if revision is None else {"revision": revision}
    if revision is not None:
        raise ConfigError(
            f"revision {revision!r} is for a model on the hub, but {name!r} is not one; "
            "leave it out"
        )
    return found


def locate_adapter(name: str) -> Path:
    """Return the folder of an adapter; fetch it from the hub if it is not a local folder.

    Raises:
        ModelNotFoundError: There is no such adapter, or it has no safetensors.
    """
    source, _ = locate(name, file=CONFIG)
    if (folder := Path(source)).is_dir():
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise ModelNotFoundError(
                    f"the folder of adapter {name!r} has no {file}; an adapter is what peft saves "
                    "(pickled weights, *.bin, are never opened)"
                )
        return folder
    with clear_errors_of(name):
        files: list[str] = [hf_hub_download(source, file) for file in (CONFIG, WEIGHTS)]
    return Path(files[-1]).parent


def _reach_hub(name: str, revision: str | None, file: str) -> None:
    """Raise ModelNotFoundError if the model is not cached and the hub cannot be reached.

    Without this check huggingface_hub would retry for half a minute.
    """
    if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=_HUB_TIMEOUT)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ModelNotFoundError(
            f"model {name!r} is no file or folder here, not in the hub's cache, and the hub cannot "
            f"be reached: {brief(error)}; check the name and the network, or use 'embedded:NAME' "
            "for a model that comes with w2s_chains"
        ) from error
    except Exception:  # from_pretrained will say what is wrong with the model
        return
