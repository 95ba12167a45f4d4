from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import tiny

Written = Callable[..., Path]


@pytest.fixture
def written(tmp_path: Path, tiny_folders: dict[str, Path]) -> Written:
    """Write a config on tiny models to a file; sections are added to or replaced."""

    def write(name: str = "w2s.yaml", **sections: Any) -> Path:
        values: dict[str, Any] = {
            "proposer": {"model": str(tiny_folders["proposer"]), "chat": False},
            "guides": {
                "tuned": str(tiny_folders["tuned"]),
                "untuned": str(tiny_folders["untuned"]),
                "chat": False,
            },
            "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 3},
            "generation": {"max_tokens": 12, "seed": 0},
            **sections,
        }
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def endless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that never ends an answer by itself, and reads 100,000 tokens."""
    folder = tmp_path_factory.mktemp("endless")
    model = tiny.llama(320, max_position_embeddings=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.generation_config.suppress_tokens = [0, 1, 2, 3]
        model.save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return folder
