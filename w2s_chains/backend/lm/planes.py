"""Which models can branch, and how they lay out keys and values."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from w2s_chains.backend.kv.store import Plane
from w2s_chains.errors import UnsupportedModelError


def check_branchable(config: Any) -> None:
    """Check that a model's cache can be cut into slices and put together again.

    Raises:
        UnsupportedModelError: A layer keeps a sliding window, a recurrent state, or similar, or the
            model reads its prompt with an encoder.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"model {name_of(config)!r} has an encoder for the prompt, and its decoder alone does "
            "not continue texts; use a causal language model (decoder only)"
        )
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if other := sorted(kind.__name__ for kind in kinds if kind is not DynamicLayer):
        raise cannot_branch(config, f"its cache has layers of type {', '.join(other)}")


def cannot_branch(config: Any, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model {name_of(config)!r} cannot branch: {why}, but a search needs keys and values of "
        "every token (full attention); use a model without sliding-window, chunked or recurrent "
        "layers, or switch the window off in its config if texts are short (sliding_window: null)"
    )


def name_of(config: Any) -> str:
    return getattr(config, "_name_or_path", "") or getattr(config, "model_type", "?")


@torch.inference_mode()
def find_planes(model: Any, cache_option: str, device: torch.device) -> list[Plane]:
    """Read one token to find out how a model lays out keys and values.

    Args:
        model: The transformers model.
        cache_option: What its forward calls the cache.
        device: Where it expects token ids.

    Raises:
        UnsupportedModelError: It has no ordinary cache.
    """
    cache = DynamicCache()
    one = torch.zeros((1, 1), dtype=torch.long, device=device)
    model(input_ids=one, use_cache=True, **{cache_option: cache})
    layers: dict[tuple[Any, ...], list[int]] = {}
    for i, layer in enumerate(cache.layers):
        if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
            raise cannot_branch(model.config, "it does not fill an ordinary cache")
        k, v = layer.keys, layer.values  # [1, H, 1, D]
        layers.setdefault((k.shape[1], k.shape[3], v.shape[3], k.dtype, k.device), []).append(i)
    if not layers:
        raise cannot_branch(model.config, "it keeps no keys and values")
    return [
        Plane(
            layers=tuple(indices),
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            dtype=dtype,
            device=device,
        )
        for (heads, key_dim, value_dim, dtype, device), indices in layers.items()
    ]
