"""Finds models: hub ids, local folders, GGUF files, ``embedded:NAME``; says what is wrong."""

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

_hub = cast(Any, huggingface_hub)  # types these functions only in part
get_hf_file_metadata, hf_hub_download = _hub.get_hf_file_metadata, _hub.hf_hub_download

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_TIMEOUT = 10.0
"""Seconds to wait for a hub that does not answer."""


@contextmanager
def clear_errors_of(name: str) -> Generator[None]:
    """Turn whatever transformers raises while it loads ``name`` into errors of ours."""
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
    except Exception as error:  # whatever a broken file or a missing package makes transformers do
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"model {name!r} needs code from its own repository, which w2s_chains never "
                "runs; use a model that transformers itself supports"
            ) from error
        raise ConfigError(f"model {name!r} cannot be loaded: {brief(error)}") from error


def check_complete(name: str, found: dict[str, Any], kind: str) -> None:
    """Raise ConfigError if a checkpoint lacks weights, which transformers would make up."""
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"model {name!r} is no {kind}: its files have no weights for "
            f"{brief(', '.join(missing))}, which would be random; give a complete checkpoint"
        )


def check_safe(name: str, source: str, files: dict[str, Any]) -> None:
    """Raise ModelNotFoundError if a local folder has no weights that may be opened.

    What the hub has is known only when it is asked for weights.
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
    """What to give to ``from_pretrained``: a folder or hub id, and which file or revision.

    Args:
        name: Hub id, local folder, GGUF file, or ``embedded:NAME``. One that the YAML file named by
            ``W2S_MODEL_PATHS`` lists is what that file says instead.
        revision: Branch, tag or commit on the hub.
        file: What a model on the hub has.

    Raises:
        ModelNotFoundError: The reference leads nowhere.
        ConfigError: A revision of something that is not on the hub.
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
    """The folder of an adapter, which is fetched from the hub if it is not here.

    Raises:
        ModelNotFoundError: The reference leads nowhere, or to no safetensors.
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
    """Raise ModelNotFoundError if the model is not cached and no hub can be reached.

    Without this, huggingface_hub tries again and again, which takes half a minute.
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
    except Exception:  # from_pretrained tells, in its own words, what is wrong with the model
        return
