"""Which models can branch, and how they lay out keys and values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    DeepseekV4Config,
    Gemma3TextConfig,
    JambaConfig,
    Llama4Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    T5Config,
    XmodConfig,
)
from transformers.cache_utils import StaticLayer

from tests.helpers import tiny
from w2s_chains.backend.kv.masks import ALL, Window
from w2s_chains.backend.kv.memory import Memory
from w2s_chains.backend.kv.store import Plane
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.planes import find_layers, find_windows, name_of, narrowed
from w2s_chains.errors import UnsupportedModelError

CPU = torch.device("cpu")


def test_a_model_without_a_name_is_called_by_its_type() -> None:
    assert name_of(SimpleNamespace(_name_or_path="some/model", model_type="kind")) == "some/model"
    assert name_of(SimpleNamespace()) == "?"
    assert name_of(SimpleNamespace(_name_or_path="", model_type="kind")) == "kind"


def test_models_whose_cache_cannot_branch_are_named() -> None:
    assert find_windows(tiny.llama(320).config) is ALL
    for config, told in (
        (T5Config(), "model 't5' has an encoder for the prompt.*decoder only"),
        (BartConfig(is_encoder_decoder=False), "'bart' is the decoder of an encoder.*decoder only"),
        (XmodConfig(), "'xmod' has an adapter.*config: {default_language: en_XX}"),
        (DeepseekV4Config(), "'deepseek_v4' cannot branch: its cache has layers of type"),
    ):
        with pytest.raises(UnsupportedModelError, match=told):
            find_windows(config)
    recurrent: Any = tiny.llama(320)
    recurrent._is_stateful = True
    with pytest.raises(UnsupportedModelError, match="'llama' cannot branch: it keeps a recurrent"):
        CausalLM(recurrent)
    hybrid: Any = tiny.llama(320)
    hybrid.config = JambaConfig()
    with pytest.raises(UnsupportedModelError, match="cannot branch"):
        CausalLM(hybrid)


def made(config: Any, **fields: Any) -> Any:
    """A config with fields that its class does not name."""
    return config(**fields)


def test_each_kind_of_layer_has_its_window() -> None:
    kinds = ["sliding_attention", "full_attention"]
    for config, windows in (
        (MistralConfig(sliding_window=8), {"sliding_attention": Window(8)}),
        (
            Gemma3TextConfig(sliding_window=9, layer_types=kinds, num_hidden_layers=2),
            {"sliding_attention": Window(9), "full_attention": Window()},
        ),
        (
            Llama4TextConfig(attention_chunk_size=7, num_hidden_layers=1),
            {"chunked_attention": Window(7, chunked=True)},
        ),
        (
            made(
                Gemma3TextConfig,
                sliding_window=9,
                attention_chunk_size=7,
                layer_types=["moe", *kinds],
                num_hidden_layers=3,
            ),
            {"sliding_attention": Window(9), "full_attention": Window()},
        ),
        (
            made(Llama4TextConfig, attention_chunk_size=7, sliding_window=9, num_hidden_layers=1),
            {"chunked_attention": Window(7, chunked=True)},
        ),
        # Without a list of its layers a config says by these fields what all of them are.
        (made(LlamaConfig, attention_chunk_size=7), {"chunked_attention": Window(7, chunked=True)}),
        (
            made(MistralConfig, sliding_window=None, attention_chunk_size=7),
            {"chunked_attention": Window(7, chunked=True)},
        ),
        (
            made(MistralConfig, sliding_window=8, attention_chunk_size=7),
            {"sliding_attention": Window(8)},
        ),
    ):
        assert find_windows(config) == windows
    assert find_windows(MistralConfig(sliding_window=None)) is ALL


def test_windows_are_short_while_they_are_checked() -> None:
    lm = CausalLM(tiny.mistral(320))
    config: Any = lm.model.config
    for failing in (False, True):
        with contextlib.suppress(ValueError), narrowed(lm.model, lm.memory):
            assert (config.sliding_window, lm.memory.windows) == (
                3, {"sliding_attention": Window(3)}
            )  # fmt: skip
            if failing:
                raise ValueError
        assert (config.sliding_window, lm.memory.windows) == (8, {"sliding_attention": Window(8)})


def test_chunks_are_short_as_well_and_what_is_full_stays_so() -> None:
    kinds = ["chunked_attention", "full_attention"]
    text: Any = Llama4TextConfig(attention_chunk_size=7, layer_types=kinds, num_hidden_layers=2)
    config: Any = Llama4Config(text_config=text)
    memory = Memory((), find_windows(config))
    assert memory.windows == {
        "chunked_attention": Window(7, chunked=True), "full_attention": Window(),
    }  # fmt: skip
    with narrowed(SimpleNamespace(config=config), memory):
        assert config.text_config.attention_chunk_size == 3
        assert memory.windows == {
            "chunked_attention": Window(3, chunked=True), "full_attention": Window(),
        }  # fmt: skip
    assert config.text_config.attention_chunk_size == 7


def no_cache(**call: Any) -> None:
    """Ignore the cache."""
    assert call["use_cache"], "control: it was asked for"


def filled_cache(**call: Any) -> Any:
    for layer in call["cache"].layers:
        layer.update(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 8))
    return call["cache"]


def half_cache(**call: Any) -> None:
    filled_cache(**call).layers[0].keys = None


def static_cache(**call: Any) -> None:
    cache = filled_cache(**call)
    cache.layers.insert(0, layer := StaticLayer(max_cache_len=2))
    layer.keys = layer.values = torch.zeros(1, 2, 1, 8)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (no_cache, "'llama' .*no keys and values"),
        (half_cache, "'llama' .*an ordinary cache"),
        (static_cache, "'llama' .*an ordinary cache"),
    ],
)
def test_models_that_do_not_fill_their_cache(answer: Callable[..., None], told: str) -> None:
    model: Any = answer
    model.config = tiny.llama(320).config
    with pytest.raises(UnsupportedModelError, match=told):
        find_layers(model, "cache", CPU)


def test_what_is_filled_is_what_is_found() -> None:
    """Control of the test above."""
    model: Any = filled_cache
    model.config = tiny.llama(320).config
    [plane], layers = find_layers(model, "cache", CPU)
    sizes = {"dtype": torch.float32, "device": CPU}
    assert plane == Plane(layers=(0, 1), heads=2, key_dim=8, value_dim=8, **sizes)
    assert layers.plain
