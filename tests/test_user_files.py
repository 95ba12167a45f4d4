"""Files that a user names are read within bounds, and say only what they seem to say."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.configs import WHOLE, refused
from w2s_chains import W2SLLM, user_files
from w2s_chains.comparison.prompts import read_prompts
from w2s_chains.comparison.study import load_study
from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError, W2SError
from w2s_chains.user_files import parse_yaml, read_text


def parsed(text: str) -> Any:
    return parse_yaml(text, "f.yaml")[1]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\na: 2\n", 2, "'a' is written twice"),
        ("- a: 1\n- b: 1\n  b: 2\n", 3, "'b' is written twice"),
        ("x:\n- - {c: 1, c: 2}\n", 2, "'c' is written twice"),
        ("x: &a {b: 1}\ny: [*a, {d: 1, d: 1}]\n", 2, "'d' is written twice"),
        ("yes: 1\non: 2\n", 2, "'on' is written twice"),
        ("1: a\n0x1: b\n", 2, "'0x1' is written twice"),
        ("'1': a\n1: b\n", 2, "'1' is written twice"),
        ("a: 1:30\n", 1, "'1:30' as a number in base 60"),
        ("a: [1:30.5]\n", 1, "in base 60"),
        ("a: -1:00:00\n", 1, "in base 60"),
        ("a: 010\n", 1, "'010' as a number in base 8"),
        ("a:\n  b: -0_7\n", 2, "in base 8"),
        ("010: a\n", 1, "in base 8"),
        ("[" * 200 + "]" * 200, 1, "more than 100 mappings and lists"),
        ("{a: " * 200, 1, "more than 100 mappings and lists"),
        ("[" * 100_000, 1, "more than 100 mappings and lists"),
    ],
)
def test_what_yaml_would_read_in_silence(text: str, line: int, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert str(caught.value).startswith(f"f.yaml:{line}: ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: '1:30'", {"a": "1:30"}),
        ('a: "010"', {"a": "010"}),
        ("a: 0", {"a": 0}),
        ("a: 0.5", {"a": 0.5}),
        ("a: 0x1F", {"a": 31}),
        ("a: 1_000", {"a": 1000}),
        ("a: 10", {"a": 10}),
        ("a: -7", {"a": -7}),
        ("a: 0o17", {"a": "0o17"}),
        ("a: [on, no]", {"a": [True, False]}),
        ("- a: 1\n- a: 1", [{"a": 1}, {"a": 1}]),
        ("a: &x {b: 1}\nc: {<<: *x, b: 2}", {"a": {"b": 1}, "c": {"b": 2}}),
        ("a: 12:61", {"a": "12:61"}),
        ("# nothing", None),
    ],
)
def test_what_yaml_reads_rightly(text: str, value: Any) -> None:
    """Control: quotes help, and what was never doubtful is read as before."""
    assert parsed(text) == value


def test_a_merged_value_is_told_with_its_own_line(tmp_path: Path) -> None:
    text = "proposer: &m {model: a}\nguides:\n  tuned: a\n  untuned:\n    <<: *m\n    model: 3\n"
    refused(tmp_path / "w.yaml", text, "guides.untuned.model", "put it in quotes", line=6)


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("width: 2", "width: true", 14, "strategy.width: Input should be a valid integer (got"),
        ("n: 1", 'n: "4"', 24, "generation.n: Input should be a valid integer, without quotes"),
        ("max_tokens: 8", "max_tokens: 1:30", 18, "in base 60"),
        ("max_tokens: 8", "max_tokens: 010", 18, "in base 8"),
        ("temperature: 0.7", "temperature: '0.7'", 19, "a valid number, without quotes"),
        ("temperature: 0.7", "temperature: on", 19, "a valid number (got True)"),
        ('- "的"', "- no", 21, "stop.0: Input should be a valid string; if it is meant as"),
        ('- "的"', "- 2024-01-01", 21, "if it is meant as text, put it in quotes"),
        ("tuned: TUNED", "tuned: 7", 6, "guide.tuned"),
        ("width: 2", "width: 1000000000", 14, "less than or equal to 65536 (got 1000000000)"),
        ("width: 2", "width: " + "9" * 4000, 14, "an integer of 13,288 bits"),
        ("width: 2", "width: 60000", 12, "120,000 partial answers would grow at once"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, told: str
) -> None:
    refused(tmp_path / "w.yaml", WHOLE.replace(old, new, 1), told, line=line)


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    lines = ["proposer:", "  model: x", "  config:", "    a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"    a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    began = time.monotonic()
    refused(tmp_path / "w.yaml", "\n".join(lines), "aliases", "1,000,000 values")
    assert time.monotonic() - began < 5
    small = "\n".join(lines[:6])
    (tmp_path / "w.yaml").write_text(small)
    assert load_config(tmp_path / "w.yaml"), "control"


def test_duplicates_in_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "presets.yaml"
    monkeypatch.setenv("W2S_PRESETS", str(path))
    path.write_text("mine: {tuned: a, untuned: b}\n")
    assert load_config({"proposer": "x", "guides": "mine"}), "control"
    for text in (
        "mine: {tuned: a, untuned: b}\nmine: {tuned: c, untuned: b}\n",
        "ok: 1\nmine: {tuned: a, untuned: b, tuned: c}\n",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"presets\.yaml:2: '\w+' is written twice"):
            load_config({"proposer": "x", "guides": "mine"})


# What is no ordinary file.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files, "PATIENCE", 0.2)


def test_a_pipe_is_read_and_never_waited_for_without_end(tmp_path: Path, impatient: None) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"nothing was written into it for 0\.2 s"):
        read_prompts(pipe)
    for ask in (W2SLLM.from_config, load_study):
        with pytest.raises(ConfigError, match="nothing was written"):
            ask(pipe)

    def write() -> None:
        with pipe.open("w") as file:
            file.write("one\n")
            file.flush()
            time.sleep(0.05)
            file.write("two\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert read_prompts(pipe) == ["one", "two"], "control: a pipe with a writer works"
    finally:
        writer.join()


def test_a_device_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_chains.comparison.prompts.MOST_BYTES", 2**20)
    for ask in (read_prompts, W2SLLM.from_config, load_study):
        with pytest.raises(ConfigError, match=r"more than \S+ bytes, the most"):
            ask("/dev/zero")
    with pytest.raises(ConfigError, match="no prompts"):
        read_prompts("/dev/null")
    big = tmp_path / "p.txt"
    big.write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(ConfigError, match=r"more than 1,048,576 bytes"):
        read_prompts(big)
    big.write_bytes(b"x" * 2**20)
    assert len(read_prompts(big)[0]) == 2**20, "control"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    unix = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(unix))
        wrong = [tmp_path, unix, tmp_path / "none", "a\0b", "x" * 5000]
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        wrong.append(tmp_path / "loop")
        for path in wrong:
            for ask in (read_prompts, load_config, load_study, lambda p: read_text(p, "x")):
                with pytest.raises(ConfigError, match="cannot read"):
                    ask(path)


@pytest.mark.parametrize("data", [b"\xff\xfea\x00", b"a: \xe9\n", b"\xed\xa0\x80", b"\x80"])
def test_other_encodings(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    for ask in (read_prompts, load_config, load_study):
        with pytest.raises(ConfigError, match=r"f:1: not UTF-8: .*; save it as UTF-8"):
            ask(path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + WHOLE.encode())
    assert load_config(path).strategy.type == "chunk_beam"


def test_errors_are_errors_of_this_package() -> None:
    with pytest.raises(W2SError):
        read_text("/nowhere", "x")
