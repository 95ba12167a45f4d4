"""Configs, studies, presets and options of the command line, as values and as garbled files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from tests.helpers.configs import NAMES, WHOLE
from tests.helpers.fuzzing import anything, fuzz, garbled, told
from w2s_chains.cli import options
from w2s_chains.comparison.study import Study, load_study, make_study
from w2s_chains.config.files import load_config
from w2s_chains.core.configs import built
from w2s_chains.guides.config import Guides, build_guide
from w2s_chains.proposers.config import PROPOSER
from w2s_chains.rewards import build_reward
from w2s_chains.scorers.config import SCORER
from w2s_chains.search import build_strategy

ALL = sorted(
    {*NAMES, *Study.model_fields, *Guides.model_fields, "base", "n", "successors", "chunk_tokens",
     "max_tokens", "length", "vader", "mixture", "parts", "weight", "preset", "zephyr", "sampling",
     "best_of_n", "chunk_beam", "reward_model", "openai", "base_url", "log_ratio", "name", "data",
     "huggingface", "classifier", "steering"}
)  # fmt: skip

STUDY = yaml.safe_dump(
    {
        "prompts": ["one", "two"],
        "seeds": [0, 1],
        "rewards": ["length", {"type": "length", "name": "whole", "template": "{prompt}{answer}"}],
        "base": {"proposer": "x", "guides": {"tuned": "a", "untuned": "b"}},
        "configs": {"a": {"strategy": "sampling"}, "b": {"generation": {"temperature": 1.5}}},
    },
    sort_keys=False,
)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("W2S_PRESETS", raising=False)


def test_values_of_a_config(until: float | None) -> None:
    fuzz(load_config, anything(ALL), until)


def test_a_good_config_with_one_section_replaced(until: float | None) -> None:
    whole = yaml.safe_load(WHOLE)

    def check(value: tuple[str, Any]) -> None:
        load_config({**whole, value[0]: value[1]})

    sections = st.sampled_from(["proposer", "guides", "scorer", "strategy", "generation", "type"])
    fuzz(check, st.tuples(sections, anything(ALL)), until)


@pytest.mark.parametrize(
    "build",
    [
        build_strategy,
        build_reward,
        build_guide,
        lambda value: built(SCORER, value),
        lambda value: built(PROPOSER, value),
    ],
    ids=["strategy", "reward", "guide", "scorer", "proposer"],
)
def test_a_part(build: Any, until: float | None) -> None:
    fuzz(build, anything(ALL), until)


def test_a_garbled_config(tmp_path: Path, until: float | None) -> None:
    path = tmp_path / "w.yaml"

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        load_config(path)

    fuzz(check, garbled(WHOLE), until)


def test_a_garbled_study(tmp_path: Path, until: float | None) -> None:
    path = tmp_path / "study.yaml"

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        load_study(path).read_prompts()

    fuzz(check, garbled(STUDY), until)


def test_garbled_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: float | None
) -> None:
    path = tmp_path / "presets.yaml"
    monkeypatch.setenv("W2S_PRESETS", str(path))

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        load_config({"proposer": "x", "guides": "mine"})

    fuzz(check, garbled("mine: {tuned: a, untuned: {model: b, template: 'x {prompt}'}}\n"), until)


def test_values_of_a_study(until: float | None) -> None:
    def check(values: Any) -> None:
        fields = values if isinstance(values, dict) else {"configs": values}
        Study(**{str(name): value for name, value in fields.items()}).read_prompts()

    fuzz(check, anything(ALL), until)


def test_arguments_of_a_comparison(until: float | None) -> None:
    def check(value: Any) -> None:
        make_study({"a": {"proposer": "x"}}, value, prompts=["one"])
        make_study({"a": {"proposer": "x"}}, rewards=value, prompts=["one"])
        make_study(value, prompts=["one"])

    fuzz(check, anything(ALL), until)


def test_options_of_the_command_line(until: float | None) -> None:
    fuzz(lambda text: options.given([text], "strategy"), garbled("{type: best_of_n, n: 16}"), until)


def test_a_raw_error_is_found() -> None:
    """Control: the fuzzer fails on anything but an error of this package."""

    def check(value: Any) -> None:
        if isinstance(value, dict) and "width" in value:
            raise KeyError("width")

    with pytest.raises(AssertionError, match="KeyError instead of a W2SError"):
        fuzz(check, anything(["width"]), time.monotonic() + 60)
    assert told(load_config, {}) is not None
