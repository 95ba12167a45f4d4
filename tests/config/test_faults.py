"""Every fault in a config is told with its file and line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.configs import WHOLE, refused
from w2s_chains import W2SLLM
from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("  token_budget", "  token_budgett", 4, ["proposer.token_budgett", "'token_budget'"]),
        ("  tuned:", "  tunned:", 6, ["guide.tunned", "did you mean 'tuned'", "guide.tuned"]),
        ('template: "A ', 'tamplate: "A ', 9, ["guide.untuned.tamplate", "mean 'template'"]),
        ("  type: log_ratio", "  typ: log_ratio", 11, ["scorer.typ", "did you mean 'type'"]),
        ("  type: log_ratio", "  type: log", 10, ["unknown scorer type 'log'", "log_ratio"]),
        ("  width:", "  widht:", 14, ["strategy.widht", "did you mean 'width'"]),
        ("chunk_beam", "chunk_bean", 12, ["'chunk_bean'", "did you mean 'chunk_beam'", "sampling"]),
        ("  type: chunk_beam\n", "", 12, ["strategy", "'type'", "best_of_n"]),
        ("  max_tokens", "  max_token", 18, ["generation.max_token", "did you mean 'max_tokens'"]),
        ("strategy:", "stratgy:", 12, ["stratgy", "did you mean 'strategy'", "generation"]),
        ("temperature: 0.7", "temperature: -1", 19, ["greater than or equal to 0", "-1"]),
        ("temperature: 0.7", "temperature: .nan", 19, ["finite"]),
        ('- "的"', '- ""', 21, ["generation.stop.0", "at least 1 character"]),
        ("  n: 1", "  n: 0", 24, ["generation.n", "greater than or equal to 1", "0"]),
        ("{prompt}", "{promt}", 3, ["proposer.template", "no '{prompt}'"]),
        ("  token_budget: 1000", "  system: Be kind.", 1, ["proposer", "set chat to true"]),
        ("  token_budget: 1000", "  device_map: 3", 4, ["proposer.device_map", "(got 3)"]),
        ("  model: UN", "  modle: UN", 8, ["guide.untuned.modle", "did you mean 'model'"]),
        ("  seed: 3", "  seed: x", 23, ["generation.seed", "integer", "'x'"]),
        ("  width: 2", "  width: 2\n  width: 3", 15, ["'width' is written twice", "keep one"]),
        ("strategy:", "proposer:", 12, ["'proposer' is written twice"]),
        ("  width: 2", "  width: [2", 15, ["broken YAML", "expected ',' or ']'"]),
        ("  width: 2", "\twidth: 2", 14, ["broken YAML"]),
        ("  width: 2", "  width: !!python/object:os.system x", 14, ["broken YAML", "os.system"]),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, parts: list[str]
) -> None:
    assert old in WHOLE
    path = tmp_path / "w.yaml"
    message = refused(path, WHOLE.replace(old, new, 1), *parts, line=line)
    assert all(re.match(rf"{re.escape(str(path))}:\d+: ", told) for told in message.split("\n"))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    broken = WHOLE.replace("width: 2", "width: 0").replace("n: 1", "n: 0").replace("seed", "sed")
    message = refused(tmp_path / "w.yaml", broken)
    assert [int(line) for line in re.findall(r"w\.yaml:(\d+): ", message)] == [14, 23, 24]


def test_a_fault_in_a_mapping_has_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^config: generation\.top_p: .*equal to 1 \(got 2\)$"):
        load_config({"proposer": {"model": "x"}, "generation": {"top_p": 2}})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["a config is a mapping", "proposer"]),
        ("- 1\n- 2\n", ["a config is a mapping"]),
        ("just text", ["a config is a mapping"]),
        ("{}", ["proposer: this field is missing"]),
        ("proposer:\n", ["proposer: a proposer is", "or a mapping", "got None"]),
        ("proposer: {model: x}\nguide: {tuned: a}\n", ["guide.untuned: this field is missing"]),
        ("proposer: {model: ''}\n", ["proposer.model", "at least 1 character"]),
        ("proposer: {model: x, 3: y}\n", ["proposer", "Keys should be strings"]),
        ("? [a]\n: b\n", ["broken YAML"]),
        ("proposer: &x {model: *x}\n", ["w.yaml"]),
        ("proposer: {model: x}\ngeneration: {seed: 2020-99-99}\n", ["broken YAML", "month"]),
        ("a: *nothing\n", ["broken YAML", "undefined alias"]),
        ("a: b\n---\nc: d\n", ["broken YAML", "expected a single document"]),
        ("a: \x00", ["broken YAML"]),
        ("a: !!int ''\n", ["broken YAML"]),
        ("a: !!bool x\n", ["broken YAML"]),
        ("a: !!timestamp x\n", ["broken YAML"]),
        ("[" * 5000, ["broken YAML"]),
    ],
)
def test_other_broken_files(tmp_path: Path, text: str, parts: list[str]) -> None:
    refused(tmp_path / "w.yaml", text, *parts)


def test_a_scorer_needs_guides(tiny_folders: dict[str, Path]) -> None:
    config = {"proposer": {"model": str(tiny_folders["proposer"])}, "scorer": {}}
    with pytest.raises(ConfigError, match="needs guides"):
        W2SLLM.from_config(config)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, binary, "nul\0.yaml"):
        with pytest.raises(ConfigError, match="cannot read config"):
            W2SLLM.from_config(path)


def test_anchors_and_merges_work(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(
        f"proposer: &model\n  model: {tiny_folders['tuned']}\n  token_budget: 500\n"
        f"guide:\n  tuned: *model\n  untuned:\n    <<: *model\n    token_budget: 600\n"
    )
    config = load_config(path)
    assert config.guides is not None
    tuned: Any = config.guides.tuned
    untuned: Any = config.guides.untuned
    assert tuned == config.proposer
    assert (untuned.model, untuned.token_budget) == (tuned.model, 600)
