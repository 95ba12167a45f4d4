"""Grouped-query attention that does not copy the shared keys and values for each head.

With a mask, transformers repeats keys and values for all heads of a group before it calls torch's
kernel. For long texts that copy takes longer than the attention itself. Here the heads of a group
become additional queries of the one key-value head they share, which gives the same result.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from w2s_chains.errors import UnsupportedModelError

_NAME = "w2s_grouped_sdpa"
_COMPARED = re.compile(r"_attn_implementation\b[^\n]*[\"']sdpa[\"']")
_attention = cast(Any, AttentionInterface)  # they are only partly typed
_masks = cast(Any, AttentionMaskInterface)
_sdpa_forward = _attention()["sdpa"]


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute what transformers' own "sdpa" implementation computes.

    Args:
        module: The attention layer.
        query: [B, H, n, D]
        key: [B, H / groups, T, D]
        value: [B, H / groups, T, D]
        attention_mask: Booleans, or floats to be added to the scores. [B, 1, n, T]; any other
            shape is left to transformers.
        scaling: Factor of the scores.
        **options: Passed on to transformers.

    Returns:
        The attention output [B, n, H, D], and None in place of the attention weights.
    """
    rows, heads, count, dim = query.shape
    groups = heads // key.shape[1]
    plain = options.get("position_bias") is None and all(
        options.get(name) in (None, 0.0) for name in ("dropout", "softcap")
    )
    if groups == 1 or attention_mask is None or attention_mask.shape[1] != 1 or not plain:
        return _sdpa_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    folded = query.reshape(rows, key.shape[1], groups * count, dim)
    mask = attention_mask[..., : key.shape[2]].repeat(1, 1, groups, 1)  # [B, 1, groups * n, T]
    attended = scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
    return attended.reshape(rows, heads, count, -1).transpose(1, 2).contiguous(), None


_attention.register(_NAME, grouped_attention)
_masks.register(_NAME, _masks()["sdpa"])


def check_pads(implementation: str | None) -> None:
    """Check that an attention implementation can do what batches need; raised before it is loaded.

    Raises:
        UnsupportedModelError: It takes no padding between cached and new tokens.
    """
    if implementation is not None and "flash" in implementation:
        raise UnsupportedModelError(
            f"attn_implementation {implementation!r} does not support padding between cached and "
            "new tokens, which batches of texts of unequal length need; use 'sdpa', which runs "
            "flash kernels where it can, or 'eager'"
        )


def asks_for_sdpa(model: nn.Module) -> bool:
    """Return whether the model's code compares the name of the attention with "sdpa".

    Under another name such a model computes something else: Falcon leaves out a scaling, models
    with sparse attention leave out their mask.
    """
    names = {type(module).__module__ for module in model.modules()}
    return any(_COMPARED.search(_source(name)) for name in names if not name.startswith("torch."))


@functools.cache
def _source(module: str) -> str:
    try:
        return inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):  # typed in by hand, or compiled
        return ""


@contextmanager
def grouped(config: Any, use: bool = True) -> Generator[None]:
    """Make a model with this config use ``grouped_attention`` where it would use "sdpa"."""
    before = config._attn_implementation
    if before != "sdpa" or not use:
        yield
        return
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
