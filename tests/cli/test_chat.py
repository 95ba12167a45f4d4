"""``w2s chat``: through a pipe in this process, and once in a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import w2s_chains
from tests.cli.conftest import Written
from tests.helpers.terminal import Terminal
from w2s_chains.cli import app
from w2s_chains.tracing import Trace

TURNS = ["hello there", "who is it"]


def chat(*arguments: object, stdin: str) -> Result:
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], stdin, catch_exceptions=False)


@pytest.fixture
def config(written: Written, tiny_folders: dict[str, Path]) -> Path:
    """A config that names no type; its models have chat templates."""
    pair = {name: str(tiny_folders[name]) for name in ("tuned", "untuned")}
    return written(proposer=str(tiny_folders["proposer"]), guides=pair)


def replies(config: Path, turns: list[str], **fields: Any) -> list[str]:
    """What the model answers to each turn of a conversation."""
    model = w2s_chains.ChatW2S.from_config(config, **fields)
    messages: list[Any] = []
    found: list[str] = []
    for turn in turns:
        messages.append(("human", turn))
        found.append(model.invoke(messages).text)
        messages.append(("ai", found[-1]))
    return found


def test_answers_are_those_of_the_conversation(config: Path) -> None:
    first, second = replies(config, TURNS)
    done = chat(config, stdin="\n".join(TURNS))
    assert (done.exit_code, done.stdout) == (0, f"{first}\n{second}\n")
    [alone] = replies(config, TURNS[1:])
    assert alone != second, "control"
    assert chat(config, stdin=f"{TURNS[0]}\n/reset\n{TURNS[1]}\n").stdout == f"{first}\n{alone}\n"
    assert chat(config, stdin=f"{TURNS[0]}\n/undo\n{TURNS[1]}\n").stdout == f"{first}\n{alone}\n"
    assert chat(config, stdin=f"{TURNS[0]}\n/quit\n{TURNS[1]}\n").stdout == f"{first}\n"


def test_settings_change_as_with_set(config: Path) -> None:
    [plain] = replies(config, TURNS[:1])
    [other] = replies(config, TURNS[:1], strategy="sampling", seed=5)
    text = f"/set strategy=sampling\n/set generation.seed=5\n{TURNS[0]}\n"
    assert chat(config, stdin=text).stdout == f"{other}\n"
    assert other != plain, "control"


def test_conversation_and_tree_are_written(config: Path, tmp_path: Path) -> None:
    text = f"{TURNS[0]}\n/save {tmp_path}/a b.json\n/trace {tmp_path}/t.json\n"
    done = chat(config, "--system", "be brief", stdin=text)
    assert done.exit_code == 0, done.output
    answer = done.stdout.removesuffix("\n")
    assert json.loads((tmp_path / "a b.json").read_text()) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": TURNS[0]},
        {"role": "assistant", "content": answer},
    ]
    trace = Trace.from_json((tmp_path / "t.json").read_text())
    assert trace.answer is not None
    assert trace.answer.text == answer


def test_what_no_longer_fits_is_left_out(config: Path) -> None:
    turns = ["word " * 40, "more " * 40, "again " * 30, "last"]
    done = chat(config, stdin="\n".join(turns))
    assert done.exit_code == 0, done.output
    model = w2s_chains.ChatW2S.from_config(config)
    whole = [("human", turn) for turn in turns]
    with pytest.raises(w2s_chains.PromptError):
        model.invoke([*whole, *whole])  # control: there is a limit
    alone = chat(config, stdin="word " * 600)
    assert alone.exit_code == 1
    assert alone.stderr.startswith("Error: ")
    assert len(alone.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("turn", "told"),
    [
        ("/hlep", "there is no command '/hlep'; did you mean '/help'?"),
        ("/set strategy.widht=1", "did you mean 'width'?"),
        ("/set guides.tuned=foo", "guides stays as it was loaded; end, and begin with --set"),
        ("/set generation.n=2", "generation.n is 2; set it to 1"),
        ("/undo", "nothing to take back"),
        ("/save", "the name of a file is missing; write /save chat.json"),
        ("/save /nowhere/x.json", "cannot write the conversation"),
        ("/trace x.html", "there is no answer yet"),
        ("/trace x.txt", ".html or .json"),
    ],
)
def test_wrong_commands_are_one_clear_line(config: Path, turn: str, told: str) -> None:
    done = chat(config, stdin=turn + "\nhello\n")
    assert done.exit_code == 2
    [line] = done.stderr.splitlines()
    assert told in line
    assert done.stdout == ""


def test_a_config_for_single_prompts_is_refused(
    written: Written, tiny_folders: dict[str, Path]
) -> None:
    done = chat(written(type="llm"), stdin="hello\n")
    assert done.exit_code == 2
    assert "is of type llm, whose models read single prompts; add --set type=chat" in done.stderr
    assert chat(written(type="llm"), "--set", "type=chat", stdin="hello\n").exit_code == 0


def test_in_a_terminal_ctrl_c_stops_the_answer_alone(
    written: Written, endless_folder: Path
) -> None:
    config = written(
        proposer={"model": str(endless_folder), "template": "Say: {prompt}"},
        guides=None,
        scorer="loglikelihood",
        generation={"max_tokens": 4, "seed": 0},
    )
    with Terminal("chat", config) as terminal:
        terminal.until("> ")
        terminal.type("/help")
        assert "/undo" in terminal.until("\r\n> ")
        terminal.type("/set scorer.type=x")
        assert "Error: " in terminal.until("\r\n> ")
        terminal.type("hello")
        terminal.until("\r\n> ")
        terminal.type("/set strategy=sampling")
        terminal.until("\r\n> ")
        terminal.type("/set generation.max_tokens=90000")
        terminal.until("\r\n> ")
        terminal.type("hello again")
        terminal.until("hello again")
        terminal.until("\n")
        terminal.more()  # control: it goes on, so that there is something to stop
        terminal.interrupt_until("Stopped; the answer so far is kept\r\n> ")
        terminal.interrupt_until("Ctrl-D ends\r\n> ")
        terminal.end_input()
        assert terminal.wait() == 0
    assert "chunk_beam prints text once all partial answers agree on it" in terminal.output
    assert "The proposer's template is for single prompts" in terminal.output
    assert "Traceback" not in terminal.output
