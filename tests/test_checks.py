"""What is checked by hand, before a commit and in CI is the same."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SERVER_TESTS = "llama-cpp"


def checks() -> list[str]:
    """What `make check` makes."""
    [line] = re.findall(r"^check: (.*)$", MAKEFILE, re.MULTILINE)
    return line.split()


def hooks() -> list[dict[str, str]]:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    return [hook for repository in config["repos"] for hook in repository["hooks"]]


def test_ci_runs_make_check() -> None:
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands[-1] == "make check"
    assert {"lint", "types", "docs", "dist", "test"} <= set(checks())


def test_hooks_run_what_ci_runs() -> None:
    """All but the test of a server, which is compiled first."""
    entries = {hook["entry"].removeprefix("make ") for hook in hooks()}
    assert entries == set(checks()) - {SERVER_TESTS}


def test_every_target_is_explained_to_contributors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    missing = [target for target in phony.split() if f"`make {target}`" not in text]
    assert missing == ["bench", "clean"], "bench stands in docs/speed.md"
