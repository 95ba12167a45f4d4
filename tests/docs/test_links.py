"""Links of the README lead somewhere from everywhere, and those into this repository to a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

REPOSITORY = "https://github.com/w2s-chains/w2s_chains"
RAW = "https://raw.githubusercontent.com/w2s-chains/w2s_chains"
_LINK = re.compile(r'\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"')
_INTO_REPOSITORY = re.compile(
    rf"(?:{re.escape(REPOSITORY)}/(?:blob|tree)|{re.escape(RAW)})/main/([^#?]+)"
)


def links(text: str) -> list[str]:
    return [one or other for one, other in _LINK.findall(text)]


def broken(text: str) -> list[str]:
    """Links that lead nowhere on PyPI, or to no file of this repository."""
    found = links(text)
    bad = [link for link in found if not link.startswith("https://")]
    inside = [(link, _INTO_REPOSITORY.match(link)) for link in found]
    return bad + [link for link, into in inside if into and not (ROOT / into[1]).exists()]


def test_links_of_the_readme_lead_to_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(links(text)) > 10
    assert broken(text) == []


@pytest.mark.parametrize(
    "link", ["docs/index.md", f"{REPOSITORY}/blob/main/no-file.md", f"{RAW}/main/docs/no.svg"]
)
def test_a_broken_link_is_noticed(link: str) -> None:
    assert broken(f"[x]({link})") == [link]
    assert broken(f'<img src="{link}">') == [link]


def test_the_readme_quotes_the_results() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for config in ("best-of-16", "chunk beam 4,4,5"):
        # The first table is that of the first experiment.
        row = next(line for line in results.splitlines() if line.startswith(f"| {config} |"))
        gain = row.split("|")[4].strip()
        assert re.fullmatch(r"[+-]\d\.\d\d \[.+\]", gain)
        assert gain in readme


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170


def test_pages_are_small() -> None:
    for page in Path(ROOT / "docs").rglob("*.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 250, page
