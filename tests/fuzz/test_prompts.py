"""Files of prompts, rows and plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.helpers.fuzzing import anything, fuzz, garbled
from w2s_chains.comparison.plan import remember
from w2s_chains.comparison.prompts import read_prompts
from w2s_chains.comparison.rows import JsonLines, Row
from w2s_chains.comparison.study import Study
from w2s_chains.core.prompts import Message, Prompt
from w2s_chains.core.sampling import Constraint

LINES = '{"prompt": "one", "id": 1}\n"two"\n{"prompt": "three", "more": [{"a": 1.5}]}\n'
TABLE = 'prompt,id\n"a, b",1\nc,2\n'
ROWS = (
    '{"config": "a", "seed": 0, "index": 0, "prompt": "one", "text": "x", "guide_score": 1.5, '
    '"loglikelihood": null, "kl": 0.0, "rewards": {"length": 1.0}, "read_tokens": 1, "rounds": 1, '
    '"proposed_tokens": 1, "guide_tokens": 2, "guide_flops_ratio": 0.5, "completion_tokens": 1, '
    '"finish_reason": "eos", "seconds": 0.1, '
    '"errors": {}}\n'
)
PLAN = "configs:\n  a: {proposer: {type: huggingface, model: x}, scored: false}\nrewards: {}\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ""])
def test_garbled_prompts(suffix: str, tmp_path: Path, until: float | None) -> None:
    path = tmp_path / f"p{suffix}"

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        read_prompts(path)

    fuzz(check, garbled(TABLE if suffix in (".csv", ".tsv") else LINES), until)


def test_prompts_of_any_bytes(tmp_path: Path, until: float | None) -> None:
    path = tmp_path / "p"

    def check(given: tuple[bytes, str]) -> None:
        own = path.with_suffix(given[1])
        own.write_bytes(given[0])
        read_prompts(own)

    suffixes = st.sampled_from([".jsonl", ".json", ".csv", ".txt", ""])
    fuzz(check, st.tuples(st.binary(max_size=60), suffixes), until)


def test_prompts_of_any_json(tmp_path: Path, until: float | None) -> None:
    path = tmp_path / "p.jsonl"

    def check(value: Any) -> None:
        path.write_text(json.dumps(value, default=str, skipkeys=True) + "\n")
        read_prompts(path)

    fuzz(check, anything(["prompt"]), until)


def test_garbled_rows(tmp_path: Path, until: float | None) -> None:
    file = JsonLines(tmp_path / "rows.jsonl", Row)

    def check(text: str) -> None:
        file.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        file.rewrite(file.read())
        file.read()

    fuzz(check, garbled(ROWS), until)


def test_a_garbled_plan(tmp_path: Path, until: float | None) -> None:
    path = tmp_path / "plan.yaml"
    study = Study(prompts=("one",), configs={"a": {"proposer": "x"}})  # pyright: ignore[reportArgumentType]

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        remember(study, path, {"a"})

    fuzz(check, garbled(PLAN), until)


def test_prompts_in_python(until: float | None) -> None:
    def check(value: Any) -> None:
        Prompt(text=value)
        Prompt(messages=(Message(role=value, content=value), value))

    fuzz(check, anything(["user", "assistant"]), until)


def test_constraints_in_python(until: float | None) -> None:
    def check(value: Any) -> None:
        Constraint(kind="regex", source=value)
        Constraint(kind=value, source="a")

    fuzz(check, anything(["regex", "lark"]), until)
    fuzz(Constraint.json_schema, anything(["type", "object", "properties"]), until)
