"""Scorers and proposers of other packages, by name in YAML."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest
from typer.testing import CliRunner

from tests.helpers import tiny
from tests.helpers.configs import guides
from w2s_chains import (
    W2SLLM,
    BaseGuidePair,
    ChunkBeamSearch,
    Expand,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Proposer,
    Scorer,
)
from w2s_chains.cli import app
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.contracts import key_of
from w2s_chains.errors import ConfigError
from w2s_chains.proposers import ProposerConfig
from w2s_chains.scorers import LogRatioConfig, ScorerConfig


class Constant(ScorerConfig):
    """A scorer that needs nothing."""

    type: Literal["constant"] = "constant"
    value: float = 0.0

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.value] * len(hypotheses)


class Empty(ScorerConfig):
    """Forgot what it is for."""

    type: Literal["empty"] = "empty"


class Echo(ProposerConfig):
    """Says the same again and again."""

    type: Literal["echo"] = "echo"
    word: str = "so"

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        return [
            [
                h.extend(self.word, n_tokens=1, finish_reason="eos")
                for h in request.hypotheses
                for _ in range(request.successors)
            ]
            for request in requests
        ]


class Blank(ProposerConfig):
    """Forgot what it is for."""

    type: Literal["blank"] = "blank"


class Loaded(ScorerConfig):
    """Its scorer does not tell that it reads the guides."""

    type: Literal["loaded"] = "loaded"

    @property
    def needs_guides(self) -> bool:
        return True

    def build(self, guides: BaseGuidePair | None) -> Scorer:
        scorer: Any = Constant(value=1.0).model_copy()
        assert guides is not None
        return scorer


PLUGINS = {
    "constant": "Constant", "empty": "Empty", "echo": "Echo", "blank": "Blank", "loaded": "Loaded",
}  # fmt: skip


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        **{name: f"tests.config.test_plugins:{value}" for name, value in PLUGINS.items()},
        "lost": "no_such_package_at_all:Part",
        "odd": "tests.helpers.configs:guides",
        "best_of_n": "w2s_chains.search:BestOfN",
        "log_ratio": "tests.config.test_plugins:Constant",
        "huggingface": "tests.config.test_plugins:Echo",
    }
    monkeypatch.setattr(
        "w2s_chains.core.slots.entry_points",
        lambda group: [
            EntryPoint(name, value, group)
            for name, value in points.items()
            if group in ("w2s_chains.scorers", "w2s_chains.proposers")
        ],
    )


@pytest.mark.parametrize("section", ["scorer", "proposer"])
def test_what_another_package_gets_wrong(plugins: None, section: str) -> None:
    def told(name: str) -> str:
        values = {"proposer": {"model": "x"}, section: {"type": name}}
        with pytest.raises(ConfigError) as caught:
            load_config(values)
        return str(caught.value)

    assert f"config: {section}: {section} 'lost' cannot be imported" in told("lost")
    assert f"config: {section}: {section} 'odd'" in told("odd")
    assert "pydantic model" in told("odd")
    assert f"instance of {section.title()}Config" in told("best_of_n")
    empty = {"scorer": "empty", "proposer": "blank"}[section]
    config = load_config({"proposer": {"type": "echo"}, section: {"type": empty}})
    with pytest.raises(ConfigError, match=rf"{section} '{empty}' has neither a method"):
        config.build()


def test_a_built_in_name_cannot_be_taken_over(plugins: None, tiny_folders: dict[str, Path]) -> None:
    config = load_config(
        {
            "proposer": {"type": "huggingface", "model": str(tiny_folders["proposer"])},
            "guide": guides(tiny_folders),
            "scorer": {"type": "log_ratio"},
        }
    )
    parts = config.build()
    assert type(parts["proposer"]) is HuggingFaceProposer
    assert type(parts["scorer"]) is LogRatioScorer
    assert "guide" not in parts


def test_the_schema_command_tells_of_a_broken_package(plugins: None) -> None:
    done = CliRunner().invoke(app, ["schema"])
    assert done.exit_code == 2
    assert "'lost' cannot be imported" in done.output


@pytest.mark.parametrize("values", [{}, {"type": "log_ratio"}])
def test_the_built_in_types(tiny_folders: dict[str, Path], values: Any) -> None:
    model = {"model": str(tiny_folders["proposer"])}
    named = {"proposer": {**model, "type": "huggingface"}, "guide": guides(tiny_folders)}
    plain = W2SLLM.from_config({**named, "proposer": model})
    same = W2SLLM.from_config({**named, "scorer": values})
    assert same.to_config() == plain.to_config()
    assert same.to_config()["scorer"] == {"type": "log_ratio"}
    assert same._identifying_params == plain._identifying_params
    assert W2SConfig.model_validate({**named, "scorer": values}).scoring == LogRatioConfig()


def test_parts_are_told_apart(plugins: None, pair: GuidePair) -> None:
    one, two = Constant(value=1.0), Constant(value=2.0)
    assert key_of(one) == key_of(Constant(value=1.0))
    assert len({key_of(part) for part in (one, two, Echo(), Echo(word="x"), Empty())}) == 5
    assert isinstance(one, Scorer)
    assert isinstance(Echo(), Proposer)
    llm = W2SLLM(
        proposer=Echo(word="y"),
        scorer=one,
        guide=pair,  # pyright: ignore[reportCallIssue]
    )
    assert llm.invoke("x") == "y"
    with pytest.raises(ConfigError, match=r"tuned guide .* was built by hand"):
        llm.to_config()
    values = llm.model_copy(update={"guides": None}).to_config()
    assert values["proposer"] == {"type": "echo", "word": "y"}
    assert values["scorer"] == {"type": "constant", "value": 1.0}
    assert W2SLLM.from_config(values).invoke("x") == "y"


def test_guides_that_a_scorer_does_not_tell_of_are_written(
    plugins: None, tiny_folders: dict[str, Path]
) -> None:
    sections = {"proposer": {"type": "echo"}, "guide": guides(tiny_folders)}
    llm = W2SLLM.from_config({**sections, "scorer": {"type": "loaded"}})
    assert isinstance(llm.guides, GuidePair)
    assert set(llm.to_config()["guides"]) == {"tuned", "untuned"}
    steered = W2SLLM.from_config({**sections, "scorer": None})
    assert steered.scorer is None
    assert isinstance(steered.guides, GuidePair)


def test_a_strategy_tells_what_a_proposer_cannot(plugins: None) -> None:
    llm = W2SLLM(proposer=Echo(), scorer=Constant(), strategy=ChunkBeamSearch(steering=1.0))
    with pytest.raises(ConfigError, match="steers every token, which the proposer Echo cannot"):
        llm.invoke("x")
    raw = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    assert W2SLLM(proposer=raw, scorer=Constant(), max_tokens=4, seed=0).invoke("x")
