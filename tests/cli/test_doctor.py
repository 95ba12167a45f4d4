"""``w2s doctor`` as a user sees it: exit codes, pipes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from w2s_chains.cli import app


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", *map(str, arguments)], catch_exceptions=False)
    return done.exit_code, done.stdout


@pytest.fixture
def config(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    path = tmp_path / "w2s.yaml"
    path.write_text(
        f"proposer: {{model: {tiny_folders['proposer']}, chat: false}}\n"
        f"guides: {{tuned: {tiny_folders['tuned']}, untuned: {tiny_folders['untuned']}, "
        "chat: false}\ngeneration: {max_tokens: 4}\n"
    )
    return path


def test_the_exit_code_says_it(config: Path) -> None:
    assert run(config)[0] == 0
    text = config.read_text()
    config.write_text(text.replace("max_tokens: 4", "max_tokens: 100000"))
    assert run(config)[0] == 1
    config.write_text(text.replace("max_tokens", "max_tokns"))
    code, output = run(config)
    assert code == 2
    assert "did you mean 'max_tokens'" in " ".join(output.split())
    config.write_text("proposer: {model: [}\n")
    code, output = run(config)
    assert code == 2
    assert f"{config.name}:1" in "".join(output.split()), "a long path may be cut into lines"
    assert run(config.parent / "missing.yaml")[0] == 2


def test_guides_that_are_missing_are_a_wrong_config(config: Path) -> None:
    config.write_text("proposer: {model: x}\nscorer: {type: log_ratio}\n")
    code, output = run(config)
    assert code == 2
    assert "needs guides" in output


def test_json(config: Path) -> None:
    code, output = run(config, "--json", "--no-load", "--prompt", "Hi [b]\x1b[0m")
    found = json.loads(output)
    assert (code, found["exit_code"], found["verdict"]) == (0, 0, "fine")
    assert [one["role"] for one in found["local"]] == ["proposer", "tuned guide", "untuned guide"]
    assert found["prompt"] == "Hi [b]\x1b[0m"
    assert found["effort"]["branches"] == 16
    assert found["loaded"] is None
    config.write_text("proposer: []\n")
    code, output = run(config, "--json")
    assert (code, json.loads(output)["verdict"]) == (2, "wrong config")


def test_a_pipe_gets_plain_text(config: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "w2s_chains", "doctor", str(config), "--no-load"],
        capture_output=True, text=True, check=False, timeout=120, encoding="utf-8",
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\u2713" in done.stdout


def test_a_broken_config_is_told_at_once(config: Path) -> None:
    """No model's library is loaded for it."""
    config.write_text("proposer: {modle: x}\n")
    code = (
        "import sys\nfrom w2s_chains.cli import app\n"
        f"try: app(['doctor', {str(config)!r}])\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_preset_without_a_hub_is_told_soon(config: Path) -> None:
    config.write_text("proposer: {model: embedded:reviews-tuned}\nguides: zephyr\n")
    began = time.monotonic()
    code, output = run(config)
    assert time.monotonic() - began < 20
    assert code == 1
    assert "zephyr-7b-beta" in output
    assert "verdict" in output
