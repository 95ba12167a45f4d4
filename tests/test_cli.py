from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import w2s_chains
from w2s_chains.cli import app


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return done.exit_code, done.output


def test_compare_a_study(study: Path, tmp_path: Path) -> None:
    code, output = run("compare", study, "--out", tmp_path / "out", "--limit", 2, "--seed", 5)
    assert code == 0, output
    assert "length" in output
    assert "95% interval" in output
    assert (tmp_path / "out" / "pareto-length.png").exists()


def test_strategies_on_one_config(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    config = tmp_path / "w2s.yaml"
    config.write_text(
        f"proposer: {{model: {tiny_folders['proposer']}}}\n"
        f"guide: {{tuned: {tiny_folders['tuned']}, untuned: {tiny_folders['untuned']}}}\n"
        "generation: {max_tokens: 4}\n"
    )
    (tmp_path / "p.csv").write_text("question\nhello there\nwho is it\n")
    (tmp_path / "more.yaml").write_text("- {type: best_of_n, n: 3}\n")
    common = ["compare", config, "--prompts", tmp_path / "p.csv", "--prompt-field", "question",
              "--no-plots"]  # fmt: skip
    code, output = run(
        *common, "--out", tmp_path / "a", "--strategy", "{type: sampling}", "--strategy",
        tmp_path / "more.yaml", "--reward", "length", "--reward", "{type: length, name: two}",
    )  # fmt: skip
    assert code == 0, output
    assert "best_of_n n=3" in output
    names = tmp_path / "named.yaml"
    names.write_text("one: {type: sampling}\ntwo: {type: best_of_n, n: 2}\n")
    code, output = run(*common, "--out", tmp_path / "b", "--strategy", names)
    assert code == 0, output
    assert "two" in output
    code, output = run(*common, "--out", tmp_path / "c", "--reward", "{type: length, nam: x}")
    assert code == 2
    assert "did you mean 'name'" in output
    code, output = run(*common, "--out", tmp_path / "c", "--strategy", "{type: [}")
    assert code == 2
    assert "not YAML" in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nope.yaml"], "cannot read config 'nope.yaml'"),
        (["{study}", "--prompts", "nope.jsonl"], "cannot read prompts"),
        (["{study}", "--baseline", "nope"], "no config is called 'nope'"),
        (["{study}", "--reward", "nope"], "unknown reward type 'nope'"),
        (["{study}", "--strategy", "{type: sampling}"], "strategies are tried on one config"),
    ],
)
def test_errors_are_one_message_and_no_traceback(
    study: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    given = [a.replace("{study}", str(study)) for a in arguments]
    code, output = run("compare", *given, "--out", tmp_path / "out")
    assert code == 2
    assert told in output
    assert "Traceback" not in output
    assert not (tmp_path / "out").exists()


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("w2s")
    done = subprocess.run([command, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == w2s_chains.__version__
