"""A W2SLLM as an object: copied, pickled, shown, assigned to."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.load import dumpd

from tests.helpers.llms import PROMPT, Recorder
from w2s_chains import W2SLLM, Sampling
from w2s_chains.errors import ConfigError, W2SError


def test_copies_share_the_models(llm: W2SLLM) -> None:
    bound: Any = llm.bind(seed=0)
    for other in (
        copy.copy(llm), copy.deepcopy(llm), llm.model_copy(), llm.model_copy(deep=True),
        bound.bound,
    ):  # fmt: skip
        assert isinstance(other, W2SLLM)
        assert other.proposer is llm.proposer
        assert other.scorer is llm.scorer
        assert other.engine is llm.engine
        assert other.invoke(PROMPT) == llm.invoke(PROMPT)
    other = copy.deepcopy(llm)
    other.seed = 5
    assert llm.seed == 0


def test_pickling_is_refused_with_a_remedy(llm: W2SLLM) -> None:
    with pytest.raises(W2SError, match=r"cannot be pickled.*to_config.*from_config"):
        pickle.dumps(llm)


def test_langchain_can_show_it_and_does_not_serialise_it(llm: W2SLLM, tmp_path: Any) -> None:
    shown = dumpd(llm)
    assert shown["type"] == "not_implemented"
    assert "ChunkBeamSearch" in shown["repr"]
    assert "Llama" not in repr(llm)
    assert not llm.is_lc_serializable()
    assert llm._llm_type == "w2s"
    assert set(llm.model_dump()) & {"proposer", "scorer", "guide", "engine"} == set()
    assert llm.model_dump()["strategy"]["width"] == 2
    llm.save(tmp_path / "llm.json")


def test_assigned_values_are_checked(llm: W2SLLM) -> None:
    llm.temperature = 0.5
    llm.callbacks = [Recorder()]
    llm.strategy = {"type": "sampling"}  # pyright: ignore[reportAttributeAccessIssue]
    assert llm.strategy == Sampling()
    with pytest.raises(ConfigError, match=r"temperature.*greater than or equal to 0 \(got -1\)"):
        llm.temperature = -1
    assert llm.temperature == 0.5
