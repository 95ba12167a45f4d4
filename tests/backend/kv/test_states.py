"""Where recurrent states are kept and found again, by hand: no model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.cache_utils import (
    Cache,
    DummyLayer,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from w2s_chains.backend.kv.layers import PLAIN, GrowingLayer, HybridLayer, Layers, State
from w2s_chains.backend.kv.segment import Lost, Segment, lost_states
from w2s_chains.backend.kv.store import Plane

PLANE = Plane(
    layers=(1, 3), heads=2, key_dim=3, value_dim=3, dtype=torch.float32,
    device=torch.device("cpu"),
)  # fmt: skip


def state(value: float) -> State:
    return (torch.full((1, 2), value),)


PROMPT = Segment(None, 0, range(5))
PROMPT.states = {4: state(4)}
CHUNK = Segment(PROMPT, 5, range(5, 9))
CHUNK.states = {8: state(8)}


@pytest.mark.parametrize(
    ("segment", "upto", "known"),
    [
        (CHUNK, 8, 8),
        (CHUNK, 7, 4),
        (CHUNK, 4, 4),
        (CHUNK, 3, 0),
        (PROMPT, 4, 4),
        (Segment(CHUNK, 9, ()), 8, 8),
        (Segment(CHUNK, 9, (1, 2)), 10, 8),
        (Segment(CHUNK, 8, (1,)), 8, 8),
        (Segment(CHUNK, 7, (1, 2)), 8, 4),
        (Segment(CHUNK, 4, (1, 2)), 5, 4),
        (Segment(CHUNK, 3, (1, 2)), 4, 0),
    ],
)
def test_the_last_state_that_is_of_this_path(segment: Segment, upto: int, known: int) -> None:
    """A path that leaves a segment in its middle has nothing of the state at its end."""
    at, found = segment.known_state(upto)
    assert at == known
    assert (found is None) == (known == 0)
    assert found is None or found[0][0, 0].item() == known


def test_what_was_lost_is_read_by_length_and_prompts_apart() -> None:
    fork, other = Segment(CHUNK, 7, (1, 2)), Segment(CHUNK, 6, (3, 4))
    new = Segment(None, 0, range(4))
    paths = [(None, 0), (CHUNK, 8), (fork, 8), (other, 7), (fork, 8), (CHUNK, 7), (new, 3)]
    found = lost_states(paths, [None, None, "a", None, "a", None, None])
    assert [*found] == [
        [Lost(fork, 4, 4, "a")],
        [Lost(other, 4, 3, None), Lost(CHUNK, 4, 3, None)],
        [Lost(new, 0, 3, None)],
    ]


def test_a_cut_segment_keeps_only_states_that_lie_in_it() -> None:
    assert CHUNK.cut(2).states == {}
    assert CHUNK.cut(3).states.keys() == {8}, "of all tokens but the last, which is not read yet"
    assert CHUNK.cut(4).states.keys() == {8}


def held() -> Cache:
    """What a model has after one token: a recurrent layer, one of both kinds, one of neither."""
    recurrent: Any = LinearAttentionLayer(number_of_states=2)
    hybrid: Any = LinearAttentionAndFullAttentionLayer(number_of_states=2)
    full: Any = DynamicLayer()
    for layer in (recurrent, hybrid):
        layer.update_conv_state(torch.ones(1, 3, 4))
        layer.update_recurrent_state(torch.ones(1, 2))
    for layer in (hybrid, full):
        layer.update(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3))
    return Cache(layers=[recurrent, hybrid, DummyLayer(), full])


def test_rows_begin_with_their_own_states() -> None:
    layers = Layers(held())
    assert not layers.plain
    assert PLAIN.plain
    assert [(own.layer, own.number, own.kind) for own in layers.parts] == [
        (0, 0, "conv"), (0, 0, "recurrent"), (1, 0, "conv"), (1, 0, "recurrent"),
    ]  # fmt: skip
    batch: Any = SimpleNamespace(filled=1)
    known = tuple(own.empty + 7 for own in layers.parts)
    cache = layers.cache(batch, [PLANE], [PLANE.zeros(3, 4)], [None, known])
    assert [type(own) for own in cache.layers] == [
        LinearAttentionLayer, HybridLayer, DummyLayer, GrowingLayer,
    ]  # fmt: skip
    assert [own.sum().item() for own in layers.state(cache, 0)] == [0, 0, 0, 0]
    assert [own.unique().item() for own in layers.state(cache, 1)] == [7, 7, 7, 7]
    copy = layers.state(cache, 1)
    recurrent: Any = cache.layers[0]
    recurrent.update_recurrent_state(torch.ones(2, 2))
    assert copy[1].unique().item() == 7, "a copy does not change with the batch"
    keys, _ = cache.update(torch.ones(2, 2, 1, 3), torch.ones(2, 2, 1, 3), 3)
    assert keys.shape == (2, 2, 2, 3), "a row that only others need is left out"
    assert cache.is_initialized
    assert cache.get_max_length(3) == -1, "it grows without limit"
    assert cache.is_sliding == [False] * 4


def test_without_any_state_layers_begin_by_themselves() -> None:
    layers = Layers(held())
    batch: Any = SimpleNamespace(filled=0)
    cache = layers.cache(batch, [PLANE], [PLANE.zeros(1, 4)], [None])
    assert not cache.has_previous_state(0)
    assert not cache.has_previous_state(1)
    for i in (0, 1):  # each has room for two, of which only the first was seen
        assert cache.update_conv_state(torch.ones(1, 3, 4), i, state_idx=1).sum().item() == 12


def test_a_layer_goes_on_from_the_states_that_it_is_given() -> None:
    """By transformers' own methods, which some architectures use and others do not."""
    layers = Layers(held())
    batch: Any = SimpleNamespace(filled=1)
    known = tuple(own.empty + 7 for own in layers.parts)
    cache = layers.cache(batch, [PLANE], [PLANE.zeros(2, 4)], [None, known])
    for layer in cache.layers[:2]:
        own: Any = layer
        place = own.recurrent_states[0]
        seen = own.update_conv_state(torch.ones(2, 3, 1))
        assert seen[:, 0].tolist() == [[0, 0, 0, 0, 1], [7, 7, 7, 7, 1]]
        assert own.conv_states[0][:, 0].tolist() == [[0, 0, 0, 1], [7, 7, 7, 1]]
        own.update_recurrent_state(torch.full((2, 2), 3.0))
        assert own.recurrent_states[0] is place, "it is written in place"
        assert place.tolist() == [[3, 3], [3, 3]]
    assert [own.unique().item() for own in known] == [7] * 4, "whoever else goes on from it"


def test_only_keys_and_values_in_each_layer_are_plain() -> None:
    full: Any = DynamicLayer()
    full.update(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3))
    assert Layers(Cache(layers=[full, full])).plain
    assert not Layers(Cache(layers=[full, DummyLayer()])).plain
    assert not Layers(Cache(layers=held().layers[:2])).plain
