"""``w2s init`` as a newcomer uses it: options, questions on a terminal, files that are there."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from w2s_chains.backend.loading.config import Model
from w2s_chains.cli import app
from w2s_chains.config.files import load_config
from w2s_chains.proposers.openai import OpenAIConfig

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["init", *map(str, arguments)], catch_exceptions=False)
    return done.exit_code, done.output


def test_nothing_said_is_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run()
    assert code == 0
    assert "w2s doctor w2s.yaml\n  w2s run w2s.yaml" in output
    proposer = load_config("w2s.yaml").proposer
    assert isinstance(proposer, Model)
    assert proposer.model == "embedded:smollm2-135m-instruct"


def test_a_file_is_never_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    code, output = run(path)
    assert code == 2
    assert "--force" in output
    assert path.read_text() == "mine"
    dangling = tmp_path / "link.yaml"
    dangling.symlink_to(tmp_path / "nowhere")
    assert run(dangling)[0] == 2
    assert run(path, "--force")[0] == 0
    assert path.read_text() != "mine", "control"


def test_what_follows_from_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "w2s.yaml"

    def written(*options: str) -> str:
        assert run(path, "--force", *options)[0] == 0
        return path.read_text()

    written("--engine", "ollama", "--model", "llama3.2")
    config = load_config(path)
    assert isinstance(config.proposer, OpenAIConfig)
    assert config.proposer.base_url == "http://localhost:11434/v1"
    assert config.strategy.type == "best_of_n"
    written("--url", "http://there:1/v1", "--model", "m", "--key-env", "K")
    config = load_config(path)
    assert isinstance(config.proposer, OpenAIConfig)
    assert (config.proposer.base_url, config.proposer.api_key_env) == ("http://there:1/v1", "K")
    assert "my/8b" in written("--model", "my/8b", "--preset", "zephyr")
    config = load_config(path)
    assert config.guides is not None
    assert config.guides.tuned == "HuggingFaceH4/zephyr-7b-beta"
    written("--guides", "lora", "--tuned", "my/lora", "--untuned", "my/base", "--chat")
    assert load_config(path).type == "chat"


def test_names_that_are_missing_are_listed(tmp_path: Path) -> None:
    code, output = run(tmp_path / "w2s.yaml", "--proposer", "local", "--tuned", "a")
    assert code == 0
    assert "fill in 2 names" in output
    assert output.count("<- FILL IN") == 2
    assert "fill in" not in run(tmp_path / "b.yaml")[1], "control"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "olama"], "did you mean 'ollama'"),
        (["--proposer", "lokal"], "did you mean 'local'"),
        (["--guides", "two"], "choices: demo"),
        (["--preset", "zephir"], "did you mean 'zephyr'"),
        (["--proposer", "local", "--engine", "vllm"], "--engine is for a server"),
        (["--proposer", "demo", "--model", "x"], "--model is for"),
        (["--guides", "demo", "--tuned", "x"], "--tuned is for --guides models or lora"),
        (["--guides", "lora", "--preset", "zephyr"], "--preset is for --guides preset"),
    ],
)
def test_what_cannot_be(tmp_path: Path, options: list[str], told: str) -> None:
    path = tmp_path / "w2s.yaml"
    code, output = run(path, *options)
    assert code == 2
    assert told in output
    assert not path.exists()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    code, output = run(tmp_path / "no" / "w2s.yaml")
    assert code == 2
    assert "No such file or directory" in output


def test_a_dash_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = run("-")
    assert code == 0
    assert output.startswith("# yaml-language-server")
    assert not list(tmp_path.iterdir())


def test_help_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for command in ("init", "doctor"):
        output = CliRunner().invoke(app, [command, "--help"]).output
        assert max(map(len, output.splitlines())) <= 80


def in_terminal(folder: Path, answers: list[str], *options: str) -> str:
    """Run it on a terminal of its own; answer each question as it comes."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "w2s_chains", "init", *options],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "80", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(theirs)
    output, waiting, until = "", list(answers), time.monotonic() + 60
    while time.monotonic() < until:
        if not select.select([ours], [], [], 0.2)[0]:
            if process.poll() is not None:
                break
            continue
        try:
            data = os.read(ours, 4096)
        except OSError:  # it has ended
            break
        output += data.decode()
        if waiting and re.search(r": $", output):
            os.write(ours, (waiting.pop(0) + "\n").encode())
    os.close(ours)
    assert process.wait(timeout=10) == 0, output
    assert not waiting, output
    return output


def test_questions_on_a_terminal(tmp_path: Path) -> None:
    answers = ["server", "olama", "ollama", "", "llama3.2", "", "preset", "starling"]
    output = in_terminal(tmp_path, answers)
    assert "Where does the large model run?" in output
    config = load_config(tmp_path / "w2s.yaml")
    assert isinstance(config.proposer, OpenAIConfig)
    assert (config.proposer.model, config.type) == ("llama3.2", "llm")
    assert config.guides is not None
    assert config.guides.tuned == "berkeley-nest/Starling-LM-7B-alpha"


def test_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    options = ("--model", "my/8b", "--tuned", "a", "--chat")
    output = in_terminal(tmp_path, ["b"], *options)
    assert "Where does" not in output
    assert "The untuned guide" in output
    assert load_config(tmp_path / "w2s.yaml").type == "chat"
    output = in_terminal(tmp_path, [], "--no-ask", "other.yaml")
    assert "?" not in output
