"""``w2s score``: what guides think of texts, in colours, as a table, or as JSON."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from tests.helpers import tiny
from tests.helpers.echo_server import serving
from w2s_chains import GuidePair, LogRatioScorer, Prompt, TextScore, TokenScores
from w2s_chains.cli import app
from w2s_chains.cli.terminal.heat import STEPS, Report, step, visible
from w2s_chains.values import is_text


def run(*arguments: object, given: str | bytes | None = None) -> tuple[int, str, str]:
    words = ["score", *map(str, arguments)]
    done = CliRunner().invoke(app, words, input=given, catch_exceptions=False)
    told = [line for line in done.stderr.splitlines() if line and "Loading weights" not in line]
    return done.exit_code, done.stdout, "\n".join(told)


def lines(*arguments: object, given: str | None = None) -> list[dict[str, Any]]:
    code, out, told = run(*arguments, "--json", given=given)
    assert code == 0, told
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def config(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    """Its large model does not exist, and is not missed."""
    path = tmp_path / "w2s.yaml"
    path.write_text(
        "proposer: {model: /no/such/model}\n"
        f"guides: {{tuned: {tiny_folders['tuned']}, untuned: {tiny_folders['untuned']}}}\n"
    )
    return path


def test_numbers_are_those_of_the_pair(config: Path, tiny_folders: dict[str, Path]) -> None:
    texts = [" was great", " was a bore 😀\n[red]電影[/red]"]
    found = lines(config, *texts, "--prompt", "The movie")
    pair = GuidePair.from_pretrained(
        str(tiny_folders["tuned"]), str(tiny_folders["untuned"]), chat=False
    )
    expected = LogRatioScorer(pair).score_texts(["The movie"] * 2, texts)
    for one, text, ratio in zip(found, texts, expected, strict=True):
        assert one["log_ratio"] == pytest.approx(ratio, abs=1e-3)
        assert one["tuned"] - one["untuned"] == pytest.approx(ratio, abs=1e-3)
        assert "".join(token["text"] for token in one["tokens"]) == one["text"] == text
        assert sum(t["log_ratio"] for t in one["tokens"]) == pytest.approx(ratio, abs=1e-3)
        assert (one["prompt"], one["finished"]) == ("The movie", True)
    unfinished = lines(config, texts[0], "--prompt", "The movie", "--unfinished")[0]
    assert not unfinished["finished"]
    assert len(unfinished["tokens"]) == len(found[0]["tokens"]) - 1
    assert unfinished["log_ratio"] != pytest.approx(found[0]["log_ratio"]), "control"


FILES = {
    "a.jsonl": '{"prompt": "x", "text": " one"}\n\n{"prompt": "x", "answer": " two", "id": 3}\n',
    "a.json": '[{"prompt": "x", "text": " one"}, {"prompt": "x", "text": " two"}]',
    "a.csv": "id,prompt,answer\n1,x, one\n2,x, two\n",
    "a.tsv": "prompt\ttext\nx\t one\nx\t two\n",
    "a.txt": " one\n\n two\n",
}


@pytest.mark.parametrize("name", FILES)
def test_texts_of_a_file(config: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    found = lines(config, " one", " two", "--texts", tmp_path / name, "--prompt", "x")
    assert found[2:] == found[:2]
    assert [one["text"] for one in found[2:]] == [" one", " two"]


def test_standard_input(config: Path) -> None:
    expected = lines(config, " one\n two", "--prompt", "x")
    assert lines(config, "-", "--prompt", "x", given=" one\n two\n") == expected
    two = lines(config, "--texts", "-", "--prompt", "x", given=" one\n two\n")
    assert [one["text"] for one in two] == [" one", " two"]
    assert lines(config, "--texts", "-", given=FILES["a.jsonl"]) == two


def test_whether_an_answer_was_finished(config: Path, tmp_path: Path) -> None:
    """Rows of a comparison say it."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(
            json.dumps({"prompt": "x", "text": " one", "finish_reason": reason, "index": 0})
            for reason in ("eos", "length", None)
        )
    )
    assert [one["finished"] for one in lines(config, "--texts", rows)] == [True, False, True]
    for flag, expected in (("--finished", True), ("--unfinished", False)):
        assert {one["finished"] for one in lines(config, "--texts", rows, flag)} == {expected}


def test_chat_messages(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    path, texts = tmp_path / "chat.yaml", tmp_path / "t.jsonl"
    path.write_text(
        f"type: chat\nproposer: {tiny_folders['proposer']}\n"
        f"guides: {{tuned: {tiny_folders['tuned']}, untuned: {tiny_folders['untuned']}}}\n"
    )
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    texts.write_text(json.dumps({"prompt": turns, "text": "Hello"}))
    [found] = lines(path, "--texts", texts)
    assert found["prompt"] == turns
    one = {"role": "user", "content": "Hi"}
    texts.write_text(json.dumps({"prompt": [one], "text": "Hello"}))
    [single] = lines(path, "--texts", texts)
    [plain] = lines(path, "Hello", "--prompt", "Hi")
    assert single["log_ratio"] == plain["log_ratio"]
    assert found["log_ratio"] != plain["log_ratio"], "control: the system message counts"
    assert "begin with a question; give --prompt" in run(path, "Hello")[2]
    path.write_text(
        path.read_text().replace("type: chat\n", "").replace("{tuned", "{chat: true, tuned")
    )
    assert "begin with a question; give --prompt" in run(path, "Hello")[2]


def test_the_scorer_if_it_asks_only_the_guides(config: Path) -> None:
    plain = config.read_text()
    text = " fun and fun and fun and fun and fun"
    config.write_text(plain + "scorer: {type: log_ratio, repetition_penalty: 2}\n")
    [found] = lines(config, text, "--prompt", "x")
    assert found["score"] < found["log_ratio"] - 1
    code, out, _ = run(config, text, "--prompt", "x")
    assert code == 0
    assert re.search(rf"scorer +{found['score']:.2f}", out)
    config.write_text(plain + "scorer: {type: loglikelihood}\n")
    code, out, told = run(config, text, "--prompt", "x", "--json")
    assert code == 0
    assert "score" not in json.loads(out)
    assert told == "The config's scorer 'loglikelihood' is not shown, since it needs more than " + (
        "the guides."
    )


def test_guides_that_tell_no_tokens(tmp_path: Path) -> None:
    base, tokenizer = tiny.llama(320, seed=1), tiny.byte_tokenizer()
    with serving(tiny.noisy(base), tokenizer) as tuned, serving(base, tokenizer) as untuned:
        path = tmp_path / "served.yaml"
        sides = ", ".join(
            f'{name}: {{base_url: "{server.url}", model: m, end: "</s>"}}'
            for name, server in (("tuned", tuned), ("untuned", untuned))
        )
        path.write_text(f"proposer: /no/such/model\nguides: {{{sides}}}\n")
        [found] = lines(path, " was", "--prompt", "The movie")
        code, out, told = run(path, " was", "--prompt", "The movie")
    assert found["tokens"] is None
    assert code == 0
    assert f"{found['log_ratio']:+.2f} nats\n" in out
    assert "per token" not in out
    assert told.startswith("Only totals: log-ratios of single tokens need two local guides")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "there is no text to score"),
        ('{"prompt": "a", "text": "b"}\n{"prompt": "a", "txt": "b"}', "2: no field 'text' or"),
        ('{"prompt": "a", "txt": "b"}', "did you mean 'txt'"),
        ('{"promt": "a", "text": "b"}', "1: no field 'prompt'; did you mean 'promt'"),
        ('{"prompt": "a", "text": 3}', "1: a text must be text that is not blank, but this is 3"),
        ('{"prompt": "a", "text": " "}', "1: a text must be text that is not blank"),
        ('{"prompt": "a", "text": "\\ud800"}', "1: a text must be text"),
        ('{"prompt": "a", "text": "b", "answer": "c"}', "1: both 'text' and 'answer'"),
        ('{"prompt": {}, "text": "b"}', "1: a prompt must be text or a list of chat messages"),
        ('{"prompt": [1], "text": "b"}', "1: [1] is no list of chat messages"),
        ('{"prompt": [], "text": "b"}', "1: there are no messages"),
        ('{"prompt": [{"role": "boss", "content": "a"}], "text": "b"}', "message type: 'boss'"),
        ('{"prompt": "a", "text": "b", "finish_reason": "x"}', "1: finish_reason is 'x'"),
        ('{"prompt": "a", "text": "b"', "1: broken JSON"),
        ('{"prompt": "a", "text": "b", "text": "c"}', "1: 'text' is written twice"),
        ("3", "1: a text must be text"),
        (json.dumps({"prompt": "a", "text": "b" * 600}), "1: prompt and answer have 6"),
        ('{"prompt": "", "text": "b"}', "1: the prompt is empty"),
    ],
)
def test_a_bad_file_is_one_line_with_its_place(
    config: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    code, out, told = run(config, "--texts", tmp_path / "t.jsonl")
    assert code in (1, 2)
    assert out == ""
    assert told.startswith("Error: ")
    assert message in told
    assert "\n" not in told


def test_bad_arguments(config: Path, tmp_path: Path) -> None:
    assert run(config)[::2] == (2, "Error: there is no text to score; give one, or a file with "
                                   "--texts")  # fmt: skip
    assert "standard input can be read once" in run(config, "-", "--texts", "-", given="x")[2]
    assert "standard input:2: not UTF-8" in run(config, "-", given=b"a\n\xff")[2]
    assert "text 2: a text must be" in run(config, "a", " ")[2]
    assert "suffix '.xml'" in run(config, "--texts", tmp_path / "a.xml")[2]
    (tmp_path / "no.yaml").write_text("proposer: x\nstrategy: sampling\n")
    assert "no.yaml has no guides" in run(tmp_path / "no.yaml", "a")[2]


# What is drawn.


def console(colour: Any = "truecolor", width: int = 80) -> Console:
    return Console(
        file=io.StringIO(), record=True, force_terminal=colour is not None, width=width,
        color_system=colour, highlight=False, markup=False, emoji=False, no_color=False,
        legacy_windows=False,
    )  # fmt: skip


def drawn(found: TextScore, **options: Any) -> tuple[str, str]:
    """The text, and the text with its codes."""
    to = console(**options)
    Report(to).show("text 1", found)
    assert isinstance(to.file, io.StringIO)
    codes = to.file.getvalue()
    return to.export_text(styles=False), codes


def of(*tokens: tuple[str, float], ended: bool = False, prompt: str = "Say") -> TextScore:
    texts, ratios = [text for text, _ in tokens], [ratio for _, ratio in tokens]
    own = TokenScores(
        texts=tuple(texts),
        tuned=tuple(ratio - 2.0 for ratio in ratios),
        untuned=(-2.0,) * len(texts),
        ended=ended,
    )
    total = sum(ratios)
    return TextScore(
        prompt=Prompt(text=prompt), text="".join(texts), ended=ended, tokens=own,
        tuned=total - 2.0 * len(texts), untuned=-2.0 * len(texts),
    )  # fmt: skip


def test_the_steps_of_the_palette() -> None:
    values = [-9.0, -1.5, -0.8, -0.25, -0.24, 0.0, 0.24, 0.25, 0.8, 1.5, math.inf]
    assert [step(value) for value in values] == [0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 6]
    assert step(-math.inf) == 0
    assert len(STEPS) == 3


def background(codes: str, piece: str) -> str:
    found = re.search(rf"\x1b\[([0-9;]*)m{re.escape(piece)}\x1b", codes)
    assert found is not None, codes
    return found[1]


def test_colours_say_which_guide_prefers_a_token() -> None:
    found = of((" very", 2.0), (" dull", -2.0), (" film", 0.0), ("", 0.5), ended=True)
    text, codes = drawn(found)
    assert "Say very dull film∎" in text
    assert "tuned likelier" in text.splitlines()[0], "the legend comes first"
    told = {piece: background(codes, piece) for piece in (" very", " dull", " film", "∎")}
    assert len(set(told.values())) == 4
    assert told[" very"] == background(codes, " +1.5 "), "as the legend has it"
    assert told[" dull"] == background(codes, " -1.5 ")
    assert all(code.startswith("38;2;0;0;0;48;2;") for code in told.values()), "black on colour"
    assert "+0.12 per token" in text


def test_few_colours_and_none() -> None:
    found = of((" very", 2.0), (" dull", -2.0), ("", 0.0), ended=True)
    _, codes = drawn(found, colour="standard")
    assert background(codes, " very") == "37;41"
    assert background(codes, " dull") == "37;44"
    text, codes = drawn(found, colour=None)
    assert "\x1b" not in codes
    assert "likelier" not in text
    assert re.search(r"\+2\.00  \+\+\+ +0\.00 +-2\.00  ' very'\n", text)
    assert re.search(r"-2\.00  --- +-4\.00 +-2\.00  ' dull'\n", text)
    assert text.rstrip().endswith("end of the turn")


def test_a_character_has_the_sum_of_its_tokens() -> None:
    found = of(("", 0.5), ("", 0.5), ("😀", 0.6), ("b", 0.0), ("", 0.9))
    text, codes = drawn(found)
    assert background(codes, "😀") == background(codes, " +1.5 ")
    assert "Say😀b…" in text, "tokens that complete no character"
    plain, _ = drawn(found, colour=None)
    assert plain.count("  …\n") == 3


def test_nothing_is_obeyed_that_a_text_says() -> None:
    found = of(("[red]x[/red]", 1.0), ("\x1b[31m", 1.0), ("\n\t\x00\x7f\x9b\u202e\u2028", 1.0))
    for colour in ("truecolor", None):
        text, codes = drawn(found, colour=colour)
        assert "[red]x[/red]␛[31m↵\n⇥␀␡<U+009B><U+202E><U+2028>" in text
        assert "\x1b[31m" not in codes
    assert visible("👩🏽\u200d🚀 e\u0301 नमस्ते") == "👩🏽\u200d🚀 e\u0301 नमस्ते"
    assert visible("a\nb", breaks=False) == "a↵b"


@pytest.mark.parametrize("width", [30, 80])
def test_lines_fit_the_terminal(width: int) -> None:
    words = [(piece, 0.3) for piece in ["電影很好看"] * 20 + [" great"] * 20 + ["x" * 90]]
    text, _ = drawn(of(*words, prompt="Say " * 100), width=width)
    body = text.split("text 1:\n")[1]
    assert max(map(cell_len, body.splitlines())) <= max(width, 45)
    shown = body.split("  log-ratio")[0]
    assert shown.startswith("…")
    assert "".join(shown.split()).count("電影很好看") == 20
    assert max(map(cell_len, shown.splitlines())) == width


def test_no_number_is_no_json(config: Path) -> None:
    from w2s_chains.cli.score import Given, as_object

    found = of((" a", -math.inf))
    told = as_object(Given(place="x", prompt="Say", text=" a"), found)
    assert told["log_ratio"] is None
    assert told["tokens"][0]["tuned"] is None
    assert is_text(json.dumps(told, allow_nan=False))


def test_through_a_pipe(config: Path) -> None:
    """A process of its own: no colours, no traceback when the reader leaves, any encoding."""
    command = [
        sys.executable,
        "-m",
        "w2s_chains.cli",
        "score",
        str(config),
        " 電影",
        "--prompt",
        "x",
    ]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert r"\u96fb" in done.stdout
