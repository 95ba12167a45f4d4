"""Paths of segments, and where their keys and values lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.kv.store import Plane, Slots, Store

STORE = Store(
    [
        Plane(
            layers=(0,), heads=1, key_dim=1, value_dim=1, dtype=torch.float32,
            device=torch.device("cpu"),
        )
    ]
)  # fmt: skip


def segment(parent: Segment | None, start: int, ids: Sequence[int], *kv: Sequence[int]) -> Segment:
    made = Segment(parent, start, ids)
    if kv:
        made.kv = tuple(Slots(STORE, np.array(run)) for run in kv)
    return made


def tree() -> tuple[Segment, Segment, Segment]:
    """Each text was tokenised again from a token before the end of the last."""
    root = segment(None, 0, (1, 2, 3, 4), (10, 11, 12))
    middle = segment(root, 3, (5, 6), (22,), (23,))
    leaf = segment(middle, 4, (7, 8, 9), (33,), (34, 35))
    return root, middle, leaf


def test_tokens_are_gathered_from_any_position() -> None:
    *_, leaf = tree()
    whole = [1, 2, 3, 5, 7, 8, 9]
    assert leaf.end == len(whole)
    for begin in range(len(whole) + 1):
        assert leaf.path_ids(begin) == whole[begin:]


def test_a_path_leaves_out_what_none_of_its_tokens_belongs_to() -> None:
    root, middle, leaf = tree()
    assert list(leaf.path()) == [(leaf, 7), (middle, 4), (root, 3)]
    again = segment(middle, 3, (8,))
    assert list(again.path()) == [(again, 4), (root, 3)], "all of the middle was written anew"
    empty = segment(leaf, 7, ())
    assert list(empty.path()) == [(empty, 7), (leaf, 7), (middle, 4), (root, 3)]
    assert empty.path_ids(5) == [8, 9]


def test_slots_cover_each_position_once() -> None:
    """From the token before a segment on they are its own."""
    *_, leaf = tree()
    where = [10, 11, 22, 33, 34, 35]
    for upto in range(7):
        runs = list(leaf.slots(upto))
        assert all(len(slots) for _, slots in runs)
        found = {begin + i: int(slot) for begin, run in runs for i, slot in enumerate(run)}
        assert sum(len(slots) for _, slots in runs) == len(found)
        assert found == dict(enumerate(where[:upto]))


def test_what_was_not_read_has_no_slots() -> None:
    root, *_ = tree()
    unread = segment(root, 4, (5, 6))
    assert [slots.tolist() for _, slots in unread.slots(3)] == [[10, 11, 12]]
    with pytest.raises(AssertionError, match="from the root down"):
        list(unread.slots(4))


def test_a_cut_segment_is_the_same_path_but_shorter() -> None:
    _, middle, leaf = tree()
    leaf.logprobs = (-1.0, -2.0, -3.0)
    cut = leaf.cut(2)
    assert (cut.parent, cut.start, cut.ids) == (middle, 4, (7, 8))
    assert cut.logprobs == (-1.0, -2.0)
    assert cut.path_ids() == [1, 2, 3, 5, 7, 8]
    read = [[(begin, run.tolist()) for begin, run in own.slots(5)] for own in (cut, leaf)]
    assert read[0] == read[1]
    assert middle.cut(1).logprobs == (), "it was not scored"
