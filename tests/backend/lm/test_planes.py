"""Which models can branch, and how they lay out keys and values."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import MistralConfig, T5Config
from transformers.cache_utils import StaticLayer

from tests.helpers import tiny
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.planes import check_branchable, find_planes, name_of
from w2s_chains.errors import UnsupportedModelError


def test_a_model_without_a_name_is_called_by_its_type() -> None:
    assert name_of(SimpleNamespace(_name_or_path="some/model", model_type="kind")) == "some/model"
    assert name_of(SimpleNamespace()) == "?"
    assert name_of(SimpleNamespace(_name_or_path="", model_type="kind")) == "kind"


def test_models_whose_cache_cannot_branch_are_named() -> None:
    check_branchable(tiny.llama(320).config)
    for config, told in (
        (T5Config(), "model 't5' has an encoder for the prompt.*decoder only"),
        (MistralConfig(sliding_window=8), "'mistral' cannot branch: its cache .*Sliding.*: null"),
    ):
        with pytest.raises(UnsupportedModelError, match=told):
            check_branchable(config)
    recurrent: Any = tiny.llama(320)
    recurrent._is_stateful = True
    with pytest.raises(UnsupportedModelError, match="'llama' cannot branch: it keeps a recurrent"):
        CausalLM(recurrent)
    windowed: Any = tiny.llama(320)
    windowed.config = MistralConfig(sliding_window=8)
    with pytest.raises(UnsupportedModelError, match="cannot branch"):
        CausalLM(windowed)


def no_cache(**call: Any) -> None:
    """Ignore the cache."""
    assert call["use_cache"], "control: it was asked for"


def static_cache(**call: Any) -> None:
    cache: Any = call.get("cache", call.get("past_key_values"))
    cache.layers.append(layer := StaticLayer(max_cache_len=2))
    layer.keys = layer.values = torch.zeros(1, 2, 1, 8)


@pytest.mark.parametrize(
    ("answer", "told"),
    [(no_cache, "'llama' .*no keys and values"), (static_cache, "'llama' .*an ordinary cache")],
)
def test_models_that_do_not_fill_their_cache(answer: Callable[..., None], told: str) -> None:
    model: Any = answer
    model.config = tiny.llama(320).config
    with pytest.raises(UnsupportedModelError, match=told):
        find_planes(model, "cache", torch.device("cpu"))
