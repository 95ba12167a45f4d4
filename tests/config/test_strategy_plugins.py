"""Strategies of other packages, by name in YAML."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest

from tests.helpers.configs import refused
from tests.helpers.llms import PROMPT
from w2s_chains import W2SLLM, ChunkBeamSearch, Sampling
from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError
from w2s_chains.search import STRATEGY


class Patient(Sampling):
    """A strategy of another package."""

    type: Literal["patient"] = "patient"
    patience: int = 3


def not_a_class() -> None:
    """Registered by mistake."""


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "patient": "tests.config.test_strategy_plugins:Patient",
        "lost": "no_such_package_at_all:Strategy",
        "odd": "tests.config.test_strategy_plugins:not_a_class",
        "other": "collections:OrderedDict",
        "chunk_beam": "tests.config.test_strategy_plugins:Patient",
    }
    monkeypatch.setattr(
        "w2s_chains.core.slots.entry_points",
        lambda group: [
            EntryPoint(name, value, group)
            for name, value in values.items()
            if group == "w2s_chains.strategies"
        ],
    )


def test_strategies_of_other_packages(
    plugins: None, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = {"model": str(tiny_folders["proposer"])}
    config = {"proposer": model, "strategy": {"type": "patient", "patience": 5}}
    llm = W2SLLM.from_config(config)
    assert llm.strategy == Patient(patience=5)
    assert W2SLLM.from_config(llm.to_config()).strategy == Patient(patience=5)
    assert isinstance(llm.invoke(PROMPT, strategy={"type": "patient"}, max_tokens=3), str)
    # A built-in name cannot be taken over.
    assert type(load_config({**config, "strategy": {"type": "chunk_beam"}}).strategy) is (
        ChunkBeamSearch
    )
    path = tmp_path / "w.yaml"
    start = "proposer: {model: x}\nstrategy:\n"
    refused(path, start + "  type: patient\n  patince: 3\n", "did you mean 'patience'", line=4)
    refused(path, start + "  type: patiend\n", "did you mean 'patient'", "chunk_beam", line=2)
    refused(path, start + "  type: lost\n", "'lost' cannot be imported", "no_such_package", line=2)
    refused(path, start + "  type: odd\n", "'odd'", "pydantic model", line=2)
    refused(path, start + "  type: other\n", "'other'", "pydantic model", line=2)


def test_nothing_is_imported_for_names_that_are_no_entry_points() -> None:
    for name in ("os.system", "tests.config.test_strategy_plugins:Patient", ""):
        with pytest.raises(ConfigError, match="unknown strategy type"):
            STRATEGY.find(name)
