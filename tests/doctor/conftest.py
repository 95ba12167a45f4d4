from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import tiny

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, tiny_folders: dict[str, Path]) -> Write:
    """Writes a config on tiny models; sections given here replace its own."""

    def written(**sections: Any) -> Path:
        values: Mapping[str, Any] = {
            "proposer": {"model": str(tiny_folders["proposer"]), "chat": False},
            "guides": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")}
            | {"chat": False},
            "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 4},
            "generation": {"max_tokens": 16},
            **sections,
        }
        path = tmp_path / "w2s.yaml"
        path.write_text(
            yaml.safe_dump({k: v for k, v in values.items() if v is not None}, sort_keys=False)
        )
        return path

    return written


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with another vocabulary under the same name, and without a chat template."""
    folder = tmp_path_factory.mktemp("foreign") / "proposer"
    tiny.gpt2(360, seed=2).save_pretrained(folder)
    tokenizer = tiny.byte_tokenizer(360, bos=True, name="other")
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    return folder
