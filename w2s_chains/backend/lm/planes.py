"""Which models can branch, and what their layers keep."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import (
    DummyLayer,
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from w2s_chains.backend.kv.layers import Layers, indexer_keys
from w2s_chains.backend.kv.masks import ALL, Window, Windows
from w2s_chains.backend.kv.memory import Memory
from w2s_chains.backend.kv.own_states import OwnLayers, marked, wrap
from w2s_chains.backend.kv.store import Plane
from w2s_chains.backend.lm.positions import text_config
from w2s_chains.errors import UnsupportedModelError, brief

_KNOWN = (
    *(DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer, DummyLayer),
    LinearAttentionLayer,
    *(LinearAttentionAndFullAttentionLayer, LinearAttentionAndSlidingWindowAttentionLayer),
)
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def find_windows(config: Any) -> Windows:
    """Find out what each kind of a model's layers sees.

    Raises:
        UnsupportedModelError: A layer keeps something else than keys and values or a recurrent
            state, the model has or had an encoder for its prompt, or it lacks a language.
    """
    _check_decoder(config)
    try:
        layers: list[Any] = DynamicCache(config=config).layers
    except KeyError as error:  # of a kind that transformers knows once the model's code is imported
        raise cannot_branch(config, f"its cache has layers of type {error}") from error
    if other := sorted({type(layer).__name__ for layer in layers if type(layer) not in _KNOWN}):
        raise cannot_branch(config, f"its cache has layers of type {', '.join(other)}")
    text = text_config(config)
    names: Any = getattr(text, "layer_types", None)
    windows: dict[str, Window] = {}
    for i, layer in enumerate(layers):
        if not isinstance(layer, DynamicLayer):
            continue
        length = layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None
        if names:
            name = names[i]
        elif length:  # transformers looks for these fields in this order
            name = CHUNKED if getattr(text, "sliding_window", None) is None else SLIDING
        else:
            name = FULL
        window = Window(length, chunked=name == CHUNKED)
        if windows.setdefault(name, window) != window:
            raise cannot_branch(config, f"its layers of kind {name} have windows of several sizes")
    return windows if any(window.length for window in windows.values()) else ALL


def _check_decoder(config: Any) -> None:
    name = name_of(config)
    if config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"model {name!r} has an encoder for the prompt, and its decoder alone does "
            "not continue texts; use a causal language model (decoder only)"
        )
    if hasattr(config, "decoder_layers") or hasattr(config, "num_decoder_layers"):
        raise UnsupportedModelError(
            f"model {name!r} is the decoder of an encoder-decoder, which does not continue texts "
            "without its encoder, and counts columns; use a causal language model (decoder only)"
        )
    if getattr(config, "default_language", "") is None:
        raise UnsupportedModelError(
            f"model {name!r} has an adapter for each language, and its config names none; add "
            "config: {default_language: en_XX} to the model, or another of its languages"
        )


_NARROW = 3
"""Tokens of a window while a model is checked; the check's texts are longer."""

_INDEXER = {"index_topk": 3, "token_budget": 2, "block_topk": 1, "compress_ratio": 2}
"""What an indexer chooses while a model is checked, in the words of transformers' indexers."""


@contextmanager
def narrowed(model: Any, memory: Memory) -> Generator[None]:
    """Make windows so short that a few tokens show what they hide, and indexers choose so few.

    A model's code takes the length of its windows out of its config whenever it makes a mask. If
    some other code had taken it before, it would now differ from ours.
    """
    chosen: list[tuple[Any, str, int]] = [
        (module, name, module.__dict__[name])
        for module in (model.modules() if memory.layers.indexed else ())
        for name in _INDEXER.keys() & module.__dict__.keys()
        if type(module).__name__.endswith("Indexer")
    ]
    for module, name, _ in chosen:
        setattr(module, name, _INDEXER[name])
    try:
        with _short_windows(model.config, memory):
            yield
    finally:
        for module, name, number in chosen:
            setattr(module, name, number)


@contextmanager
def _short_windows(config: Any, memory: Memory) -> Generator[None]:
    windows, names = memory.windows, ("sliding_window", "attention_chunk_size")
    if windows is ALL:
        yield
        return
    text = text_config(config)
    lengths = {name: length for name in names if (length := getattr(text, name, None)) is not None}
    memory.windows = {
        kind: replace(window, length=window.length and _NARROW) for kind, window in windows.items()
    }
    try:
        for name in lengths:
            setattr(text, name, _NARROW)
        yield
    finally:
        memory.windows = windows
        for name, length in lengths.items():
            setattr(text, name, length)


def cannot_branch(config: Any, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model {name_of(config)!r} cannot branch: {why}, so a search could not go on from what it "
        "has read of a text; use a model whose layers keep what transformers' own DynamicCache "
        "holds: keys and values, or one recurrent state"
    )


def name_of(config: Any) -> str:
    return getattr(config, "_name_or_path", "") or getattr(config, "model_type", "?")


@torch.inference_mode()
def find_layers(model: Any, cache_option: str, device: torch.device) -> tuple[list[Plane], Layers]:
    """Read one token to find out what a model's layers keep.

    Args:
        model: The transformers model.
        cache_option: What its forward calls the cache.
        device: Where it expects token ids.

    Raises:
        UnsupportedModelError: It has no ordinary cache.
    """
    own_states = wrap(model)
    cache = (
        marked(DynamicCache(config=model.config))
        if own_states
        else DynamicCache(config=model.config)
    )
    one = torch.zeros((1, 1), dtype=torch.long, device=device)
    try:
        model(input_ids=one, use_cache=True, **{cache_option: cache})
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any code of any architecture
        why = f"it cannot fill the cache that its config describes ({type(error).__name__}: "
        raise cannot_branch(model.config, f"{why}{brief(error)})") from error
    layers: dict[tuple[Any, ...], list[int]] = {}
    indexers: dict[tuple[Any, ...], list[int]] = {}
    ordinary = True
    for i, layer in enumerate(cache.layers):
        k, v = getattr(layer, "keys", None), getattr(layer, "values", None)  # [1, H, 1, D]
        if k is not None and v is not None:
            layers.setdefault((k.shape[1], k.shape[3], v.shape[3], k.dtype, k.device), []).append(i)
        if (own := indexer_keys(layer)) is not None:  # [1, 1, D]
            indexers.setdefault((1, own.shape[2], 0, own.dtype, own.device), []).append(i)
        filled = k is not None or own_states or not isinstance(layer, DynamicLayer)
        ordinary &= type(layer) in _KNOWN and filled
    found = OwnLayers(cache, model.config.model_type) if own_states else Layers(cache)
    if not layers and not found.parts:
        raise cannot_branch(model.config, "it keeps no keys and values")
    if not ordinary:
        raise cannot_branch(model.config, "it does not fill an ordinary cache")
    return [
        Plane(
            layers=tuple(indices),
            heads=heads,
            key_dim=key_dim,
            value_dim=value_dim,
            dtype=dtype,
            device=device,
            indexer=kinds is indexers,
        )
        for kinds in (layers, indexers)
        for (heads, key_dim, value_dim, dtype, device), indices in kinds.items()
    ], found
