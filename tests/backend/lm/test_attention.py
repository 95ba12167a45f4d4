"""When heads are folded, when transformers' own attention is asked, and for which models."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import FalconConfig, FalconForCausalLM

from tests.helpers import tiny
from w2s_chains.backend.lm import attention
from w2s_chains.backend.lm.attention import asks_for_sdpa, check_pads, grouped, grouped_attention
from w2s_chains.errors import UnsupportedModelError

MASK = torch.zeros(2, 1, 4, 5)
WAYS: dict[str, tuple[int, Any, dict[str, Any], bool]] = {
    "folded": (3, MASK, {}, True),
    "nothing special": (3, MASK, {"dropout": 0.0, "softcap": None, "is_causal": False}, True),
    "groups of two": (6, MASK, {}, True),
    "no groups": (12, MASK, {}, False),
    "no mask": (3, None, {}, False),
    "a mask for each head": (3, MASK.expand(2, 12, 4, 5), {}, False),
    "dropout": (3, MASK, {"dropout": 0.1}, False),
    "a bias of positions": (3, MASK, {"position_bias": torch.ones(2, 12, 4, 5)}, False),
    "a cap": (3, MASK, {"softcap": 30.0}, False),
}


@pytest.mark.parametrize("way", WAYS)
def test_heads_are_folded_where_that_is_the_same(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, mask, options, folds = WAYS[way]
    asked: list[dict[str, Any]] = []
    theirs = attention._sdpa_forward

    def watched(module: Any, query: Any, key: Any, value: Any, mask: Any, **how: Any) -> Any:
        asked.append({"mask": mask, **how})
        return theirs(module, query, key, value, mask, scaling=how["scaling"])

    monkeypatch.setattr(attention, "_sdpa_forward", watched)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 12, 4, 8, generator=generator)
    key, value = torch.randn(2, 2, heads, 5, 8, generator=generator)
    module: Any = nn.Module()
    module.num_key_value_groups = 12 // heads
    found, weights = grouped_attention(module, query, key, value, mask, scaling=0.3, **options)
    expected, _ = theirs(module, query, key, value, mask, scaling=0.3)
    assert torch.allclose(found, expected, atol=1e-5)
    assert found.is_contiguous()
    assert weights is None
    if folds:
        assert asked == []
    else:
        [how] = asked
        assert how.pop("mask") is mask
        assert how == {"scaling": 0.3, **options}


def test_a_longer_mask_is_cut_to_the_keys() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 2, 8, generator=generator)
    key, value = torch.randn(2, 1, 3, 5, 8, generator=generator)
    mask = torch.zeros(1, 1, 2, 9)
    module: Any = nn.Module()
    long, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    cut, _ = grouped_attention(module, query, key, value, mask[..., :5], scaling=0.3)
    assert torch.equal(long, cut)


class Own(nn.Module):
    """A layer of a module that the test makes."""


def test_models_that_look_at_the_name_of_their_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FalconConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=4
    )
    assert asks_for_sdpa(FalconForCausalLM(config))
    assert not asks_for_sdpa(tiny.llama(320))
    monkeypatch.setattr(Own, "__module__", "typed.by.hand")
    assert not asks_for_sdpa(Own()), "there is no source to look at"
    monkeypatch.setitem(sys.modules, "typed.by.hand", ModuleType("typed.by.hand"))
    assert not asks_for_sdpa(Own())


@pytest.mark.parametrize(("name", "use", "inside"), [
    ("sdpa", True, "w2s_grouped_sdpa"), ("sdpa", False, "sdpa"), ("eager", True, "eager"),
])  # fmt: skip
def test_the_name_is_another_one_only_while_we_read(name: str, use: bool, inside: str) -> None:
    config = SimpleNamespace(_attn_implementation=name)

    def fail() -> None:
        with grouped(config, use):
            assert config._attn_implementation == inside
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert config._attn_implementation == name
    with grouped(config):
        assert (config._attn_implementation == name) is (name != "sdpa")


def test_attention_that_takes_no_padding() -> None:
    for name in (None, "sdpa", "eager"):
        check_pads(name)
    with pytest.raises(UnsupportedModelError, match="'flash_attention_2' does not support padding"):
        check_pads("flash_attention_2")
