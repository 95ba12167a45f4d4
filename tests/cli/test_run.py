"""``w2s run`` in a process of its own where streams matter, else in this one."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import w2s_chains
from tests.cli.conftest import Written
from tests.helpers.terminal import Terminal, piped, screen
from w2s_chains import ChatW2S
from w2s_chains.cli import app
from w2s_chains.tracing import Trace

PROMPT = "The movie was great"
LINES = ["hello there", "who is it", PROMPT]


def run(*arguments: object, stdin: str | bytes = "") -> Result:
    return CliRunner().invoke(app, ["run", *map(str, arguments)], stdin, catch_exceptions=False)


def answers(config: Path, prompts: list[str], **fields: Any) -> list[str]:
    return w2s_chains.load(config, **fields).batch(prompts)


def test_the_answer_is_that_of_invoke_and_nothing_else_is_said(written: Written) -> None:
    config = written()
    [expected, other] = answers(config, [PROMPT, "another one"])
    done = run(config, PROMPT)
    assert (done.exit_code, done.stdout, done.stderr) == (0, expected + "\n", "")
    assert other != expected, "control"


def test_set_is_the_edited_file(written: Written) -> None:
    config = written()
    changes = ["--set", "strategy.width=3", "--set", "generation.seed=7"]
    edited = written(
        "edited.yaml",
        strategy={"type": "chunk_beam", "width": 3, "successors": 2, "chunk_tokens": 3},
        generation={"max_tokens": 12, "seed": 7},
    )
    changed = run(config, PROMPT, *changes).stdout
    assert changed == run(edited, PROMPT).stdout
    assert changed != run(config, PROMPT).stdout, "control"
    whole = run(config, PROMPT, "--set", "strategy=sampling", "--json").stdout
    assert json.loads(whole)["kl"] == 0


def test_json_lines_have_scores_costs_and_the_seed(written: Written) -> None:
    config = written(generation={"max_tokens": 12})  # no seed: one is drawn, and told
    done = run(config, "--json", stdin="\n".join(LINES))
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["prompt"] for one in found] == LINES
    for one in found:
        names = {"text", "score", "kl", "finish_reason", "read_tokens", "guide_tokens", "rounds"}
        assert names < one.keys()
        assert answers(config, [one["prompt"]], seed=one["seed"]) == [one["text"]]


def test_several_answers_are_kept_apart(written: Written) -> None:
    config = written(generation={"max_tokens": 12, "seed": 0, "n": 2})
    [[*both]] = w2s_chains.W2SLLM.from_config(config).generate([PROMPT]).generations
    first, second = (one.text for one in both)
    assert run(config, PROMPT).stdout == f"{first}\n---\n{second}\n"
    found = run(config, PROMPT, "--json").stdout.splitlines()
    assert [json.loads(line)["text"] for line in found] == [first, second]


def test_each_line_of_stdin_is_a_prompt_and_a_dash_is_all_of_it(written: Written) -> None:
    config = written()
    one, two, three = answers(config, LINES)
    text = "\n".join(LINES)
    lined = f"{one}\n---\n{two}\n---\n{three}\n"
    assert run(config, stdin=text).stdout == lined
    assert (
        run(config, stdin=b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode()).stdout == lined
    )
    [whole] = answers(config, [text])
    assert run(config, "-", stdin=text + "\n").stdout == whole + "\n"
    [other] = answers(config, [text + "\n"])
    assert run(config, "-", stdin=text + "\n\n").stdout == other + "\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "told"),
    [
        (["nope.yaml", "x"], b"", "cannot read config 'nope.yaml'"),
        (["{c}", "x", "--set", "strategy.widht=2"], b"", "--set strategy.widht=2: strategy.widht: "
         "unknown field; did you mean 'width'?"),
        (["{c}", "x", "--set", "stratgy.width=2"], b"", "did you mean 'strategy'?"),
        (["{c}", "x", "--set", "strategy.width"], b"", "--set takes PATH=VALUE"),
        (["{c}", "x", "--set", "strategy.width=["], b"", "--set strategy.width=[: broken YAML"),
        (["{c}", "x", "--set", "generation.seed.x=2"], b"", "generation.seed is 0, which has no"),
        (["{c}", "x", "--set", "strategy.type=best_of_n"], b"", "w2s.yaml:10 with --set strategy"),
        (["{c}", ""], b"", "the prompt is empty: it is ''"),
        (["{c}", "-"], b" \n", "the prompt is empty: stdin has no text"),
        (["{c}"], b"\n\n", "there is no prompt"),
        (["{c}", "-"], b"one\ntw\xff", "line 2 of stdin is not UTF-8"),
        (["{c}"], b"\n\nthree\xff\n", "line 3 of stdin is not UTF-8"),
        (["{c}"], b"a\n" + b"long " * 500, "line 2 of stdin: "),
        (["{c}", "x", "--show"], b"", "--show draws on a terminal"),
        (["{c}", "--trace", "x.html"], b"a\n", "--trace writes the tree of one prompt"),
        (["{c}", "x", "--trace", "x.txt"], b"", "a trace is written as .html or .json"),
        (["{c}", "x", "--trace", "/nowhere/x.html"], b"", "there is no such folder"),
        (["{c}", "x", "--system", "y"], b"", "--system is for chats"),
        (["{c}", "x", "--trace", "x.json", "--set", "generation.n=2"], b"", "for one answer"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_clear_line(
    written: Written, arguments: list[str], stdin: bytes, told: str
) -> None:
    done = run(*(a.replace("{c}", str(written())) for a in arguments), stdin=stdin)
    assert done.exit_code in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.output
    assert all(line.startswith("Error: ") or "with --set" in line
               for line in done.stderr.splitlines())  # fmt: skip


def test_a_file_that_cannot_be_written_is_told_before_a_model_loads(
    written: Written, tmp_path: Path
) -> None:
    config = written(proposer={"model": "no/such-model"})
    (tmp_path / "x.html").mkdir()
    done = run(config, PROMPT, "--trace", tmp_path / "x.html")
    assert "cannot write the trace" in done.stderr
    assert "such-model" not in done.stderr
    assert "such-model" in run(config, PROMPT).stderr, "control"


def test_the_tree_is_written(written: Written, tmp_path: Path) -> None:
    for name in ("x.json", "x.html"):
        done = run(written(), PROMPT, "--trace", tmp_path / name)
        assert done.exit_code == 0, done.output
    trace = Trace.from_json((tmp_path / "x.json").read_text())
    assert trace.answer is not None
    assert trace.answer.text + "\n" == done.stdout
    assert trace.prompt == PROMPT


def test_a_chat_config_takes_a_turn_and_a_system_message(
    written: Written, tiny_folders: dict[str, Path]
) -> None:
    config = written(
        type="chat",
        proposer={"model": str(tiny_folders["proposer"])},
        guides={"tuned": str(tiny_folders["tuned"]), "untuned": str(tiny_folders["untuned"])},
    )
    chat = w2s_chains.load(config)
    assert isinstance(chat, ChatW2S)
    alone = chat.invoke(PROMPT).text
    told = chat.invoke([("system", "be brief"), ("human", PROMPT)]).text
    assert run(config, PROMPT).stdout == alone + "\n"
    assert run(config, PROMPT, "--system", "be brief").stdout == told + "\n"
    assert alone != told, "control"


def test_a_warning_is_said_once_and_in_a_line(
    written: Written, tiny_folders: dict[str, Path]
) -> None:
    done = run(written(proposer=str(tiny_folders["proposer"])), PROMPT)
    [line] = done.stderr.splitlines()
    assert line.startswith("Warning: the tokenizer of ")


def test_lines_may_wait_for_answers_and_nothing_is_drawn_in_a_pipe(written: Written) -> None:
    with piped("run", written(), "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in LINES:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["prompt"] == line
        process.send_signal(signal.SIGINT)  # while it waits for more
        assert process.wait(30) == 130
        assert process.communicate(timeout=30) == (b"", b"Interrupted\n")


def endless(written: Written, folder: Path) -> Path:
    return written(
        proposer={"model": str(folder), "chat": False},
        guides=None,
        strategy="sampling",
        generation={"max_tokens": 90_000, "seed": 0},
    )


def test_a_closed_pipe_ends_it_quietly(written: Written, endless_folder: Path) -> None:
    with piped("run", endless(written, endless_folder), "x") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10)
        assert process.poll() is None, "control: it goes on"
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b""


def test_ctrl_c_leaves_what_was_committed(
    written: Written, endless_folder: Path, tmp_path: Path
) -> None:
    config = endless(written, endless_folder)
    with piped("run", config, "x", "--trace", tmp_path / "x.json") as process:
        assert process.stdout is not None
        begin = process.stdout.read(10)
        assert process.poll() is None, "control: it goes on"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"Interrupted\n")
    trace = Trace.from_json((tmp_path / "x.json").read_text())
    assert trace.answer is None
    [longer] = answers(config, ["x"], max_tokens=len(begin + out))
    assert longer.encode().startswith(begin)


def test_show_draws_on_a_terminal_and_leaves_the_answers(written: Written) -> None:
    config = written(generation={"max_tokens": 40, "seed": 3})
    with Terminal("run", config, "--show") as terminal:
        assert "Loading weights" not in terminal.until("> ")
        for line in LINES[:2]:
            terminal.type(line)
            drawn = terminal.until(" s\r\n> ")
            assert "Round 1" in drawn
            assert "kept" in drawn
        terminal.end_input()
        assert terminal.wait() == 0
    assert "Loading " in terminal.output
    shown = screen(terminal.output)
    assert not any("Round" in line or "kept" in line for line in shown)
    assert sum("chunk_beam · round " in line for line in shown) == 2
    for expected in answers(config, LINES[:2]):
        assert _visible(expected) in _visible("".join(shown))


def _visible(text: str) -> str:
    return "".join(char for char in text if char.isascii() and char.isalnum())
