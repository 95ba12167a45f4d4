"""What a window hides, by hand: no model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from w2s_chains.backend.kv.masks import ALL, Window, first_seen, given

FILLED, COUNT = 4, 3
POSITIONS = np.array([[0, 1, 2, 3, 4, 5, 4, 5], [-2, -1, 0, 1, 2, 3, 2, 3]])
"""Two rows, the second padded; from column 4 on two branches in turn, whose last is unread."""


def added() -> torch.Tensor:
    mask = torch.zeros(2, 1, COUNT, POSITIONS.shape[1], dtype=torch.bfloat16)
    mask[:, :, 1, 2:4] = -5
    return mask


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_what_lies_outside_of_a_window_is_hidden(length: int, chunked: bool) -> None:
    cut = Window(length, chunked).cut(added(), POSITIONS, FILLED)
    hidden = 0
    for row, i, column in np.ndindex(2, COUNT, POSITIONS.shape[1]):
        asking, seen = POSITIONS[row, FILLED + i], POSITIONS[row, column]
        outside = seen // length < asking // length if chunked else asking - seen >= length
        hidden += outside
        wanted = torch.finfo(torch.bfloat16).min if outside else added()[row, 0, i, column].item()
        assert cut[row, 0, i, column].item() == wanted
    assert cut.dtype == torch.bfloat16
    assert 0 < hidden < cut.numel(), "control: some is hidden, and some is not"


def test_without_a_window_nothing_is_hidden() -> None:
    mask = added()
    assert Window().cut(mask, POSITIONS, FILLED) is mask
    assert {*ALL.values()} == {Window(None, chunked=False)}


def test_a_single_mask_is_given_by_itself() -> None:
    one, other = added(), added()
    assert given({"full_attention": one}) is one
    both = {"full_attention": one, "sliding_attention": other}
    assert given(both) is both


def test_the_first_position_that_is_seen_in_any_layer() -> None:
    found = [Window(3).first_seen(position) for position in range(6)]
    assert found == [0, 0, 0, 1, 2, 3]
    for window in (Window(), Window(3, chunked=True)):
        assert window.first_seen(9) == 0
    assert first_seen({"a": Window(3), "b": Window(5)}, 9) == 5
    assert first_seen({"a": Window(3), "b": Window()}, 9) == 0
    assert first_seen({}, 9) == 0, "a model without attention"
