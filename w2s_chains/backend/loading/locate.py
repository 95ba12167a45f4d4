"""Find the files of models: hub ids, local folders, GGUF files, ``embedded:NAME``, adapters."""

from __future__ import annotations

import functools
import logging
import re
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import huggingface_hub
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from w2s_chains.backend.lm.adapters import CONFIG, WEIGHTS
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.errors import (
    ConfigError,
    ModelNotFoundError,
    UnsupportedModelError,
    W2SError,
    brief,
)
from w2s_chains.forks import ForkSafeLock
from w2s_chains.user_files import local_path

_hub = cast(Any, huggingface_hub)  # it is only partly typed
get_hf_file_metadata, hf_hub_download = _hub.get_hf_file_metadata, _hub.hf_hub_download

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_GGUF = re.compile(r"(\w[\w.-]*/\w[\w.-]*)/(\w[\w./-]*\.gguf)")
_HUB_TIMEOUT = 10.0
"""Seconds to wait for an answer from the hub."""


@contextmanager
def held_back() -> Generator[None]:
    """Keep what torch and transformers warn of on this thread, and say it if there is no error.

    Our own error comes first that way, and alone.
    """
    thread = threading.get_ident()
    held: list[Callable[[], object]] = []
    show = warnings.showwarning

    def keep(handler: logging.Handler, record: logging.LogRecord) -> bool:
        if record.thread != thread or record.levelno > logging.WARNING:
            return True
        held.append(functools.partial(handler.handle, record))
        return False

    def keep_warning(*warning: Any, **options: Any) -> None:
        if threading.get_ident() == thread:
            held.append(functools.partial(show, *warning, **options))
        else:
            show(*warning, **options)

    filters = [
        (handler, functools.partial(keep, handler))
        for handler in logging.getLogger("transformers").handlers
    ]
    for handler, own in filters:
        handler.addFilter(own)
    warnings.showwarning = keep_warning
    try:
        yield
    finally:
        if warnings.showwarning is keep_warning:
            warnings.showwarning = show
        for handler, own in filters:
            handler.removeFilter(own)
    for say in held:
        say()


class _Silence:
    """The calls that load now, on all threads; transformers has one hook for its bars."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._loading = 0
        self._before: Any = None

    @contextmanager
    def kept(self) -> Generator[None]:
        """Keep transformers from drawing its own bars; downloads from the hub show theirs."""
        from transformers.utils import logging as bars

        def none(factory: object, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            return cast("Any", bars).EmptyTqdm(*args, **options)

        with self._lock:
            if not self._loading:
                self._before = bars.set_tqdm_hook(none)
            self._loading += 1
        try:
            yield
        finally:
            with self._lock:
                self._loading -= 1
                if not self._loading:
                    bars.set_tqdm_hook(self._before)


without_bars = _Silence().kept


@contextmanager
def clear_errors_of(name: str) -> Generator[None]:
    """Turn any error that transformers raises while it loads ``name`` into a ``W2SError``.

    What it warns of is said afterwards, and it draws no bars.
    """
    try:
        with held_back(), without_bars():
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


def locate(
    name: str, revision: str | None = None, file: str = "config.json"
) -> tuple[str, dict[str, Any]]:
    """Find a model, and return the arguments for ``from_pretrained``.

    Args:
        name: Hub id, local folder, GGUF file here or on the hub (``owner/name/file.gguf``), or
            ``embedded:NAME``. If the YAML file named by
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
        with without_bars():  # a model may have to be converted first
            found = str(embedded_path(name.removeprefix("embedded:"))), {}
    elif path.suffix == ".gguf" and path.is_file():
        found = str(path.parent), {"gguf_file": path.name}
    elif path.is_dir():
        found = str(path), {}
    elif on_hub := _HUB_GGUF.fullmatch(name):
        repository, gguf = on_hub.groups()
        if snapshot := _snapshot(repository, revision, gguf):
            return str(snapshot), {"gguf_file": Path(gguf).name}
        named = {} if revision is None else {"revision": revision}
        return repository, {"gguf_file": gguf, **named}
    elif path.suffix == ".gguf" or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"model {name!r} is neither a file nor a folder here, and no hub id (owner/name); "
            "check the path, or use 'embedded:NAME' for a model that comes with w2s_chains"
        )
    else:
        if snapshot := _snapshot(name, revision, file):
            return str(snapshot), {}
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


def _snapshot(name: str, revision: str | None, file: str) -> Path | None:
    """Find out whether the hub can be asked for a model.

    Without this question huggingface_hub would retry for half a minute, file by file.

    Returns:
        The cached files, if the hub cannot be reached; None if the hub answers.

    Raises:
        ModelNotFoundError: The hub cannot be reached, and the model is not in its cache.
    """
    cached = try_to_load_from_cache(name, file, revision=revision)
    if isinstance(cached, str) and _hub.is_offline_mode():
        return None  # huggingface_hub then asks nobody
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=_HUB_TIMEOUT)
    except (HfHubHTTPError, ValueError):  # from_pretrained will say what is wrong with the model
        return None
    except Exception as error:  # the class depends on the HTTP library that huggingface_hub uses
        if isinstance(cached, str):
            return Path(cached).parent
        raise ModelNotFoundError(
            f"model {name!r} is no file or folder here, not in the hub's cache, and the hub cannot "
            f"be reached: {brief(error)}; check the name and the network, or use 'embedded:NAME' "
            "for a model that comes with w2s_chains"
        ) from error
    return None
