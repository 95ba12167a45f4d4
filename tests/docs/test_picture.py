"""The picture of the search shows a search that happens."""

from __future__ import annotations

import importlib
import re
import sys
from html import unescape
from types import ModuleType
from unittest.mock import patch

import pytest

from tests.docs.blocks import ROOT
from tests.docs.outputs import difference

pytest.importorskip("matplotlib")

PICTURES = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def picture() -> ModuleType:
    with patch.object(sys, "path", [str(PICTURES), *sys.path]):
        return importlib.import_module("search")


def texts(svg: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_the_pictures_show_this_search(picture: ModuleType) -> None:
    steps = picture.search()
    kept = [sum(candidate.kept for candidate in step) for step in steps]
    assert kept == [picture.STRATEGY.width] * 3
    for name, colours in {"light": picture.LIGHT, "dark": picture.DARK}.items():
        committed = (PICTURES / f"search-{name}.svg").read_text(encoding="utf-8")
        drawn = picture.svg(picture.draw(steps, colours)).decode()
        shown, found = ("\n".join(texts(svg)).replace("\u2212", "-") for svg in (committed, drawn))
        assert "movie is very" in shown
        assert difference(shown, found) is None
        assert difference(shown, found.replace("movie", "film")) is not None
