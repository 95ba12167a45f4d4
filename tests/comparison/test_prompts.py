from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s_chains.comparison.prompts import read_prompts
from w2s_chains.errors import ConfigError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(texts, min_size=1))
def test_any_text_comes_back_from_json_lines(tmp_path_factory, prompts: list[str]) -> None:
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    lines = [json.dumps({"prompt": p}, ensure_ascii=i % 2 == 0) for i, p in enumerate(prompts)]
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert read_prompts(path) == prompts


@given(st.lists(texts.filter(lambda t: "\r" not in t and "\0" not in t), min_size=1))
def test_any_text_comes_back_from_csv(tmp_path_factory, prompts: list[str]) -> None:
    path = tmp_path_factory.mktemp("prompts") / "p.csv"
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([["id", "question"], *enumerate(prompts)])
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    assert read_prompts(path, "question") == prompts


def test_a_text_file_has_a_prompt_per_line(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  two \n")
    assert read_prompts(path) == ["one", "  two "]
    assert read_prompts(path, limit=1) == ["one"]


def test_json_strings_are_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('"one"\n\n{"prompt": "two", "other": 1}\n')
    assert read_prompts(path) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', "p.jsonl:2: .* is 3"),
        ("p.jsonl", '{"prompt": "a"}\n{"promt": "b"}\n', "p.jsonl:2: .*did you mean 'promt'"),
        ("p.jsonl", '{"prompt": "a"}\n\n{"prompt": "b\n', "p.jsonl:3: broken JSON"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": " "}\n', "p.jsonl:2: .*not blank"),
        ("p.jsonl", '{"prompt": "\\ud800"}\n', "p.jsonl:1: half a surrogate"),
        ("p.jsonl", "[1]\n", r"p.jsonl:1: .*\[1\]"),
        ("p.csv", "prompt,x\na,1\nb\n", "p.csv:3: .*more or fewer cells"),
        ("p.csv", "prompt,x\na,1\nb,1,2\n", "p.csv:3: .*more or fewer cells"),
        ("p.csv", "text\na\n", "p.csv:1: no column 'prompt'"),
        ("p.csv", 'prompt\n"a\n', "p.csv:.: broken CSV"),
        ("p.tsv", "prompt,x\na,1\n", "p.tsv:1: no column 'prompt'"),
        ("p.csv", "", "no prompts"),
        ("p.csv", "prompt\n", "no prompts"),
        ("p.jsonl", "\n", "no prompts"),
        ("p.txt", " \n\n", "no prompts"),
        ("p.txt", b"ok\n\xff\n", "p.txt:2: not UTF-8"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=told):
        read_prompts(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.txt"):
        read_prompts(tmp_path / "nope.txt")
    with pytest.raises(ConfigError, match="directory"):
        read_prompts(tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonlines", ".json", ".NDJSON"])
def test_json_is_parsed_whatever_it_is_called(tmp_path: Path, suffix: str) -> None:
    """A file called .ndjson, .json or .jsonlines was sent to the model as JSON source."""
    path = tmp_path / f"p{suffix}"
    path.write_text('{"prompt": "one"}\n"two"\n')
    assert read_prompts(path) == ["one", "two"]


def test_a_json_document_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text('\n[\n  {"prompt": "one"},\n  "two"\n]\n')
    assert read_prompts(path) == ["one", "two"]
    for text, told in (
        ('[{"prompt": "a"}, {"promt": "b"}]', r"p\.json: item 2: no field 'prompt'; did you mean"),
        ('["a", 3]', r"p\.json: item 2: .* is 3"),
        ('[\n"a",\n', r"p\.json: broken JSON in line 3"),
        ('{\n"prompt": "a"}', r"p\.json:1: broken JSON"),
        ("[]", "no prompts"),
        ("[" * 100_000, "broken JSON"),
        ("[" + "9" * 5000 + "]", "broken JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_prompts(path)


@pytest.mark.parametrize(
    "suffix", [".yaml", ".yml", ".xml", ".parquet", ".gz", ".jsonl.gz", ".json5", ".xlsx", ".lst"]
)
def test_another_suffix_is_refused_with_the_choices(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_text("- one\n")
    with pytest.raises(ConfigError, match=r"whose form is not known.*\.csv, \.json, \.jsonl"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["p.txt", "p.text", "p.md", "p", "p.TXT"])
def test_text_is_text(tmp_path: Path, name: str) -> None:
    """Control: what says that it is text is never parsed."""
    path = tmp_path / name
    path.write_text('one\n[2]\n{"a\n')
    assert read_prompts(path) == ["one", "[2]", '{"a']


def test_json_without_a_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_text('{"prompt": "one"}\n')
    with pytest.raises(ConfigError, match=r"p:1: this looks like JSON.*\.jsonl"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.jsonl", '{"prompt": "a", "prompt": "b"}\n', r"p\.jsonl:1: 'prompt' is written twice"),
        ("p.csv", "prompt,prompt\na,b\n", r"p\.csv:1: two columns are called 'prompt'"),
        ("p.jsonl", "[" * 100_000 + "\n", r"p\.jsonl:1: broken JSON"),
        ("p.jsonl", '{"prompt": ' + "9" * 5000 + "}\n", r"p\.jsonl:1: broken JSON"),
        ("p.jsonl", '{"prompt": ' + '{"a":' * 90 + "1" + "}" * 91 + "\n", r"this one is \{"),
    ],
)
def test_doubtful_and_excessive_json(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=told) as caught:
        read_prompts(path)
    assert len(str(caught.value)) < 2000


def test_a_message_is_short_whatever_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(",".join(f"c{i}" for i in range(50_000)) + "\n")
    with pytest.raises(ConfigError, match=r"and 49,960 more") as caught:
        read_prompts(path)
    assert len(str(caught.value)) < 2000
    path = tmp_path / "p.jsonl"
    path.write_text('{"other": 1, "other": 2, "prompt": "a"}\n')
    assert read_prompts(path) == ["a"], "control: another field may come twice"


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ("one\n\n  two \n", ["one", "  two "]),
        ('{"question": "one"}\n"two"\n', ["one", "two"]),
        ('{not json}\n["two"]\n', ["{not json}", '["two"]']),
        ("\ufeffone\r\ntwo", ["one", "two"]),
    ],
)
def test_standard_input_tells_its_form_by_its_first_line(
    source: str, content: str, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert read_prompts(source, "question") == prompts


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "there are no prompts in standard input"),
        (b'{"prompt": "a"}\n', "standard input:1: no field 'question'"),
        (b'{"question": "a"}\n{"question"\n', "standard input:2: broken JSON"),
        (b"a\n\xff\n", "standard input:2: not UTF-8"),
        (None, "there is no standard input"),
    ],
)
def test_a_malformed_standard_input_is_refused(
    content: bytes | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = None if content is None else io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(ConfigError, match=told):
        read_prompts("-", "question")


def test_standard_input_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_chains.comparison.prompts.MOST_BYTES", 10)
    for content, fits in ((b"0123456789", True), (b"0123456789a", False)):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        if fits:
            assert read_prompts("-") == ["0123456789"]
        else:
            with pytest.raises(ConfigError, match="more than 10 bytes"):
                read_prompts("-")
