from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def folder(tiny_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model folder to be damaged."""
    return Path(shutil.copytree(tiny_folders["proposer"], tmp_path / "model"))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(
        "w2s_chains.backend.loading.text_part.AutoModelForCausalLM.from_pretrained",
        staticmethod(fail),
    )
