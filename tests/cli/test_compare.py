from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import w2s_chains
from w2s_chains.cli import app


def run(*arguments: object, given: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments], given, catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture
def config(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    path = tmp_path / "w2s.yaml"
    path.write_text(
        f"proposer: {{model: {tiny_folders['proposer']}}}\n"
        f"guide: {{tuned: {tiny_folders['tuned']}, untuned: {tiny_folders['untuned']}}}\n"
        "generation: {max_tokens: 4}\n"
    )
    return path


def test_compare_a_study(study: Path, tmp_path: Path) -> None:
    code, output = run("compare", study, "--out", tmp_path / "out", "--limit", 2, "--seed", 5)
    assert code == 0, output
    assert "length" in output
    assert "95% interval" in output
    assert (tmp_path / "out" / "pareto-length.png").exists()


def test_strategies_on_one_config(tmp_path: Path, config: Path) -> None:
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


def test_tune(tmp_path: Path, config: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"film {number}\n" for number in range(24)))
    common = ["tune", config, "--prompts", prompts, "--out", tmp_path / "tuned", "--no-plots"]
    code, output = run(*common, "--reward", "length", "--strategy", "{type: best_of_n, n: 2}")
    assert code == 0, output
    assert "recommended.yaml" in output
    assert (tmp_path / "tuned" / "tuning.md").exists()
    code, output = run(*common, "--minutes", 0)
    assert code == 2
    assert "minutes is 0.0; it must be more than 0" in output
    assert "Traceback" not in output


def test_a_type_alone_is_a_strategy(tmp_path: Path, config: Path) -> None:
    common = ["compare", config, "--prompts", "-", "--no-plots", "--reward", "length"]
    out = ["--out", tmp_path / "out", "--strategy"]
    code, output = run(*common, *out, "sampling", "--strategy", "best_of_n", given="one\ntwo\n")
    assert code == 0, output
    assert "\n best_of_n " in output
    code, output = run(*common, "--out", tmp_path / "b", "--strategy", "samplng", given="one\n")
    assert code == 2
    assert "unknown strategy type 'samplng'; did you mean 'sampling'?" in output
    assert not (tmp_path / "b").exists()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"film {number}\n" for number in range(24)))
    code, output = run(
        "tune", config, "--prompts", prompts, "--out", tmp_path / "t", "--strategy", "best_of_m"
    )
    assert (code, "did you mean 'best_of_n'?" in output) == (2, True)


def test_prompts_from_standard_input(tmp_path: Path, config: Path) -> None:
    out = tmp_path / "out"
    options = ["compare", config, "--prompts", "-", "--out", out, "--no-plots"]
    code, output = run(*options, given='{"prompt": "one"}\n{"prompt": "two"}\n')
    assert code == 0, output
    assert "Prompt 1: two" in output
    assert "there already" not in output
    code, output = run(*options, given="one\ntwo\nthree\n")
    assert code == 0, output
    assert "2 of 3 answers are there already; answering 1\n" in output
    code, output = run(*options, given="one\nthree\n")
    assert code == 2
    assert "has prompt 'two' at place 1, but now that is 'three'" in output
    assert "cannot write" not in output, "the folder is not the fault"
    study = tmp_path / "study.yaml"
    study.write_text(f"prompts: none.txt\nprompt_field: ask\nconfigs: {{a: {config}}}\n")
    code, output = run(
        "compare", study, "--prompts", "-", "--out", tmp_path / "s", given='{"ask": "me"}\n'
    )
    assert code == 0, output
    assert "Prompt 0: me" in output, "the study names the field"


def test_the_last_line_names_what_was_written(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    common = ["compare", study, "--out", out, "--limit", 1, "--seed", 0]
    for options, names in (
        (["--no-plots"], "rows.jsonl, summary.md, summary.csv"),
        (["--no-plots", "--alpaca-eval"], "summary.csv, alpaca_eval/base-seed0.json, "),
        ([], "summary.csv, pareto-length.png, distribution-length.png, "),
    ):
        done = CliRunner().invoke(app, [str(a) for a in (*common, *options)])
        assert done.exit_code == 0, done.output
        last = done.stdout.splitlines()[-1]
        assert names in last
        assert last.startswith(f"In {out}: rows.jsonl, ")
        assert all((out / name).is_file() for name in last.split(": ")[1].split(", "))
    code, output = run(*common, "--no-plots")
    assert (code, ".png" in output) == (0, False), "they are there, but of an earlier run"


def test_nothing_is_drawn_and_nothing_cut_in_a_pipe(config: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "w2s_chains", "compare", config, "--out", tmp_path / "out",
         "--prompts", "-", "--no-plots"],
        input="one", capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert "\r" not in done.stderr
    assert "%|" not in done.stderr, "no bar, not even one of transformers"
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80


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


def test_a_key_written_twice_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: {type: sampling}\none: {type: best_of_n}\n")
    (tmp_path / "b.yaml").write_text("one: {type: sampling}\n")
    for given, told in (
        (["{type: best_of_n, n: 2, n: 3}"], "'n' is written twice"),
        (["{type: best_of_n, n: 010}"], "in base 8"),
        ([tmp_path / "a.yaml"], "a.yaml:2: 'one' is written twice"),
        ([tmp_path / "b.yaml", tmp_path / "b.yaml"], "two of --strategy are called 'one'"),
        ([tmp_path / "none.yaml"], "cannot read strategy"),
        ([tmp_path / "b.yaml", "sampling"], "give each strategy a name, or none of them"),
    ):
        options = [part for one in given for part in ("--strategy", one)]
        code, output = run("compare", study, "--out", tmp_path / "out", *options)
        assert (code, told in output) == (2, True), output


def test_no_number_of_a_run_is_cut_in_a_pipe(study: Path, tmp_path: Path, monkeypatch) -> None:
    rewards = [part for i in range(20) for part in ("--reward", f"{{type: length, name: r{i}}}")]
    monkeypatch.setenv("COLUMNS", "40")
    out = tmp_path / "out"
    code, output = run(
        "compare", study, "--out", out, "--limit", 2, "--seed", 0, "--no-plots", *rewards
    )
    assert code == 0, output
    table = (out / "summary.md").read_text().splitlines()
    for line in table[2:5]:
        for cell in line.strip("| ").split(" | ")[1:]:
            assert all(word in output.split() for word in cell.split())


def test_a_run_whose_every_row_failed(study: Path, tmp_path: Path) -> None:
    """It printed a table of nan."""
    (tmp_path / "long.txt").write_text("\n".join("word " * 9000 for _ in range(3)))
    code, output = run(
        "compare", study, "--prompts", tmp_path / "long.txt", "--out", tmp_path / "out",
        "--seed", 0, "--no-plots",
    )  # fmt: skip
    assert code == 1
    assert "nan" not in output.lower()
    assert "guide score" not in output
    assert "9 of 9 answers have an error, for example 'answer' of config 'base'" in output
    assert "PromptError" in output


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        code, output = run(option)
        assert (code, "compare" in output) == (0, True)
        code, output = run("compare", option)
        assert code == 0
        for name in ("--prompts", "--prompt-field", "--alpaca-eval", "--batch-size"):
            assert name in output, "a narrow terminal cut the names of options"


def test_python_runs_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "w2s_chains", "--version"], capture_output=True, text=True
    )
    assert done.stdout.strip() == w2s_chains.__version__, done.stderr


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("w2s")
    done = subprocess.run([command, "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == w2s_chains.__version__
