from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.configs import WHOLE


@pytest.fixture
def text(tiny_folders: dict[str, Path]) -> str:
    filled = WHOLE
    for name in ("proposer", "tuned", "untuned"):
        filled = re.sub(rf"\b{name.upper()}\b", str(tiny_folders[name]), filled)
    return filled


@pytest.fixture
def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "w2s.yaml"
    path.write_text(text, encoding="utf-8")
    return path
