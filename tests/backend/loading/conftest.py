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

    for auto in (
        "loading.text_part.AutoModelForCausalLM",
        "classifiers.load.AutoModelForSequenceClassification",
    ):
        monkeypatch.setattr(f"w2s_chains.backend.{auto}.from_pretrained", staticmethod(fail))
