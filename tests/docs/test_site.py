"""The documentation builds without a warning, needs no network, and has every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from langchain_core.language_models import BaseChatModel

import w2s_chains
from tests.docs.blocks import ROOT
from w2s_chains.cli import app

pytest.importorskip("mkdocstrings_handlers.python")

_FETCHED = re.compile(
    r'<(?:script|img|iframe)[^>]*\ssrc="https?:|<link[^>]*stylesheet[^>]*"https?:'
)


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "--config-file", config, "--site-dir", site],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_builds_and_fetches_nothing(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    fetched = {page.name: _FETCHED.findall(page.read_text("utf-8")) for page in pages}
    assert {name: found for name, found in fetched.items() if found} == {}
    assert (site / "cookbook/controlled_sentiment/results/main.png").is_file()


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    anchors = {
        anchor
        for page in (site / "api").glob("*.html")
        for anchor in re.findall(r'id="(w2s_chains[\w.]+)"', page.read_text("utf-8"))
    }
    names = {
        f"{kind.__module__}.{name}" if "errors" in getattr(kind, "__module__", "") else
        f"w2s_chains.{name}"
        for name in w2s_chains.__all__
        for kind in [getattr(w2s_chains, name)]
    }  # fmt: skip
    assert names - anchors == set()


def test_every_field_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api" / "models.md").read_text("utf-8")
    own = w2s_chains.ChatW2S.model_fields.keys() - BaseChatModel.model_fields.keys()
    assert "strategy" in own
    assert {name for name in own if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("guides/gpu.md", "Model"),
        ("guides/server.md", "OpenAIConfig"),
        ("guides/search.md", "ChunkBeamSearch"),
        ("guides/search.md", "BestOfN"),
        ("guides/search.md", "EmulatedFineTuning"),
        ("guides/scorer.md", "LogRatioConfig"),
        ("configuration.md", "SamplingParams"),
    ],
)
def test_every_field_is_in_its_guide(page: str, name: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    fields = getattr(w2s_chains, name).model_fields.keys() - {"type"}
    assert {field for field in fields if f"`{field}`" not in text} == set()


def test_every_option_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "api" / "cli.md").read_text("utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {
        option
        for command in commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    }
    assert "--strategy" in options
    assert {option for option in options if f"`{option}`" not in page} == set()


@pytest.mark.parametrize("links", [["other.md#there"], ["no.md", "other.md#no", "#neither"]])
def test_broken_links_and_anchors_fail(links: list[str], tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    lines = ["# Page", *(f"[x]({link})" for link in links)]
    (docs / "index.md").write_text("\n\n".join(lines), encoding="utf-8")
    (docs / "other.md").write_text("# Other\n\n## There\n", encoding="utf-8")
    own = {"docs_dir": str(docs), "nav": ["index.md", "other.md"], "plugins": [], "hooks": []}
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        yaml.safe_dump({"INHERIT": str(ROOT / "mkdocs.yml"), "extra_css": [], **own}),
        encoding="utf-8",
    )
    done = build(config, tmp_path / "site")
    warned = [link for link in links if f"'{link}'" in done.stderr]
    assert warned == (links if len(links) > 1 else [])
    assert (done.returncode == 0) is (not warned)
