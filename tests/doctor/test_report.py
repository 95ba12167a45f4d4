"""The report is readable at 80 columns, plain in a pipe, and never obeys what models say."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from tests.doctor.conftest import Write
from w2s_chains.doctor import Diagnosis, diagnose
from w2s_chains.doctor.diagnosis import LocalFacts, Piece, Rendered
from w2s_chains.doctor.report import DiagnosisReport, visible

EVIL = "[bold]x[/bold] \x1b[31mred\x07 \u202eback {prompt} \\n"


def printed(found: Diagnosis, encoding: str = "utf-8", **options: Any) -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    DiagnosisReport(Console(file=file, markup=False, emoji=False, width=80, **options)).print(found)
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.fixture
def found(write: Write) -> Diagnosis:
    return diagnose(write(), EVIL, load=False)


def test_it_fits_80_columns_and_has_no_colours_in_a_pipe(found: Diagnosis) -> None:
    text = printed(found)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    colours = printed(found, force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b" in colours, "control"
    for part in ("proposer", "tuned guide", "vocabulary", "memory", "strategy", "verdict"):
        assert f"\n{part}" in text


def test_what_models_and_prompts_say_is_only_text(found: Diagnosis) -> None:
    text = printed(found)
    for shown in ("[bold]x[/bold]", r"\x1b[31mred\x07", r"\u202eback", r"{prompt} \\n"):
        assert shown in text
    assert not set(text) & set("\x1b\x07\u202e")
    colours = printed(found, force_terminal=True, color_system="standard")
    assert "\x1b[31mred" not in colours
    assert "\x1b[31mred" in colours.replace("\\x1b", "\x1b"), "control"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_unicode_only_where_it_can_be_shown(write: Write, encoding: str) -> None:
    found = diagnose(write(), "Ça va, 😀?", load=False)
    text = printed(found, encoding)
    assert text.isascii() is (encoding != "utf-8")
    assert (r"\xc7a va" in text) is (encoding != "utf-8")
    assert ("ok nothing speaks" in text) is (encoding != "utf-8")


def rendering(*pieces: Piece) -> str:
    facts = LocalFacts(
        role="proposer", model="x", devices=("cpu",), dtype="float32", parameters=1, weights=4,
        cache_per_token=1, cache=1, context=None, vocabulary=10, fetched=False,
        rendered=Rendered(how="chat template", pieces=pieces, tokens=3),
    )  # fmt: skip
    return printed(Diagnosis(config="c.yaml", type="chat", local=[facts], max_tokens=5))


def test_text_that_comes_late_is_told(write: Write) -> None:
    beam = {"type": "chunk_beam", "width": 4, "successors": 4, "chunk_tokens": 4}
    text = printed(diagnose(write(strategy=beam), load=False))
    assert "comes all at the end; commit_after: 1" in text
    text = printed(diagnose(write(strategy={**beam, "commit_after": 1}), load=False))
    assert "streams: the first after about 8 tokens" in text, "control"


def test_control_tokens_are_marked() -> None:
    text = rendering(Piece(text="<s>", control=True), Piece(text="user <s>\nhi"))
    assert "\u27e6<s>\u27e7user <s>\\n" in text
    assert "\n    hi" in text
    assert "to be fetched from the hub" in text


def test_a_long_prompt_is_cut() -> None:
    text = rendering(Piece(text="word " * 10_000))
    assert len(text) < 4000
    assert "(50,000 characters)" in text


def test_what_is_visible() -> None:
    assert visible("a\tb\x00\u200b\\") == r"a\tb\x00\u200b\\"
    assert visible("plain ü 電") == "plain ü 電"
    assert visible("ü", ascii_only=True) == r"\xfc"


def test_failures_come_first_and_decide(found: Diagnosis) -> None:
    assert "nothing speaks against an answer" in printed(found)
    found.tell("note", "b", "a note")
    found.tell("failure", "a", "a failure")
    found.tell("failure", "a", "a failure")
    text = printed(found)
    assert text.index("a failure") < text.index("a note")
    assert text.count("a failure") == 1
    assert "an answer will fail: one thing to mend" in text
    assert (found.exit_code, found.to_json()["verdict"]) == (1, "fails")
    found.wrong = True
    assert "the config is wrong" in printed(found)
    assert (found.exit_code, found.to_json()["verdict"]) == (2, "wrong config")
