"""Broken files of a comparison, and broken text from its parts, are one clear error each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from w2s_chains import W2SLLM, Expand, Hypothesis, Proposer
from w2s_chains.comparison import compare
from w2s_chains.errors import ConfigError, W2SError


@pytest.mark.parametrize(
    "content",
    [
        b"- 1\n", b"text\n", b"configs: [\n", b"configs: [a]\n", b"configs: 3\n", b"\xff\n",
        b"configs: {}\nconfigs: {}\n", b"[" * 5000, b"configs: &a {b: *a}\n",
    ],
)  # fmt: skip
def test_a_broken_plan_is_one_clear_error(study: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "plan.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan\.yaml"):
        compare(study, out=out, plots=False, limit=1, seeds=[0])
    assert (out / "plan.yaml").read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"3", b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"config": "base", "seed": 0, "index": ' + b"9" * 5000 + b', "prompt": "a"}',
        b'{"config": "base", "seed": ' + b"9" * 4000 + b', "index": 0, "prompt": "a"}',
        b'{"config": "base", "seed": "0", "index": 0, "prompt": "a"}',
        b'{"config": "base", "seed": 0, "index": 0, "prompt": "\\ud800"}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["rows.jsonl", "judged.jsonl"])
def test_a_broken_row_is_one_clear_error(
    study: Path, tmp_path: Path, name: str, line: bytes
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match=rf"{name}:1: not a"):
        compare(study, out=out, plots=False, limit=1, seeds=[0])


class Halves(Proposer):
    """Answers with half of a surrogate pair where the prompt says so."""

    def propose(self, requests: Sequence[Expand]) -> Sequence[list[Hypothesis] | Exception]:
        return [
            RuntimeError("broken \ud800")
            if "error" in h.prompt.plain_text
            else [
                h.extend("\ud800" if "half" in h.prompt.plain_text else "fine", finish_reason="eos")
                for _ in range(request.successors)
            ]
            for request in requests
            for h in request.hypotheses
        ]


def test_half_a_character_ends_no_comparison(tmp_path: Path) -> None:
    llm = W2SLLM(proposer=Halves(), strategy="sampling")
    prompts = ["good", "half", "error", "good too"]
    for _ in range(2):  # the second run reads what the first has written
        found = compare({"a": llm}, prompts, out=tmp_path, rewards=["length"], plots=False)
        assert [row.text for row in found.rows] == ["fine", None, None, "fine"]
        assert "surrogate" in found.rows[1].errors["answer"]
        assert "RuntimeError: broken ?" in found.rows[2].errors["answer"]


def test_a_reward_that_complains_in_halves(tmp_path: Path) -> None:
    def odd(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        raise RuntimeError("\udfff")

    llm = W2SLLM(proposer=Halves(), strategy="sampling")
    found = compare({"a": llm}, ["good"], out=tmp_path, rewards=[odd], plots=False)
    assert found.rows[0].errors == {"odd": "RuntimeError: ?"}


def test_a_reward_that_returns_none(tmp_path: Path) -> None:
    def nothing(prompts: Sequence[str], answers: Sequence[str]) -> Any:
        return None

    llm = W2SLLM(proposer=Halves(), strategy="sampling")
    found = compare({"a": llm}, ["good", "too"], out=tmp_path, rewards=[nothing], plots=False)
    for row in found.rows:
        assert (
            "ScorerError: the reward 'nothing' returned 1 values for 1 answers (None)"
            in (row.errors["nothing"])
        )


def test_folders_that_cannot_be(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "a\0b", tmp_path / "file" / "below"):
        with pytest.raises(W2SError, match="cannot write"):
            compare(study, out=out, plots=False, limit=1, seeds=[0])
