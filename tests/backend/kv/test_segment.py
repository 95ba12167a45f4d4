"""Paths of segments, and where their keys and values lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from w2s_chains.backend.kv.segment import Segment, give_back
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


def windowed(*kv: Sequence[int]) -> tuple[Store, Segment]:
    """A store that is told of its segments, and the first of them."""
    store = Store(STORE.planes, lambda users: None)
    return store, read(store, None, 0, range(sum(map(len, kv)) + 1), *kv)


def read(
    store: Store, parent: Segment | None, start: int, ids: Sequence[int], *kv: Sequence[int]
) -> Segment:
    made = Segment(parent, start, ids)
    made.kv = tuple(Slots(store, np.array(run)) for run in kv)
    return made


def last(count: int) -> Callable[[int], int]:
    """The first position that is seen where so many are, the asking one included."""
    return lambda position: max(0, position - count + 1)


def held(own: Segment) -> list[int]:
    return [slot for run in own.kv or () for slot in run.ids.tolist()]


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_chains.backend.kv.segment._SPARE", 0)


@pytest.mark.usefixtures("exact")
def test_leaves_and_what_they_grew_from_keep_what_they_see() -> None:
    store, root = windowed((10, 11, 12, 13, 14, 15))
    inner = read(store, root, 7, (7, 8), (16,), (17,))
    above = read(store, inner, 9, (9, 10), (18,), (19,))
    leaf = read(store, above, 11, (11, 12), (20,), (21,))
    assert {*(store.users or ())} == {root, inner, above, leaf}
    give_back([root, inner, above, leaf], last(4))
    # The next token is at position 12 after the leaf, and at 10 after the one above.
    assert [held(own) for own in (root, inner, above, leaf)] == [
        [0] * 6, [0, 17], [18, 19], [20, 21],
    ]  # fmt: skip
    del leaf
    give_back([root, inner, above], last(2))
    assert [held(own) for own in (inner, above)] == [[0, 17], [0, 19]]


@pytest.mark.usefixtures("exact")
def test_a_run_that_siblings_share_is_kept_for_all_of_them() -> None:
    store, root = windowed((10, 11, 12))
    shared, long = Slots(store, np.array([13])), Slots(store, np.array([20, 21, 22]))
    one, other = Segment(root, 4, (5, 6, 7, 8)), Segment(root, 4, (5,))
    one.kv, other.kv = (shared, long), (shared,)
    tip = read(store, one, 8, (9, 10, 11), (23, 24, 25))
    give_back([root, one, other, tip], last(2))
    assert held(other) == [13]
    assert held(one) == [13, 0, 0, 22]
    assert held(tip) == [0, 0, 25]


def test_a_few_tokens_before_a_window_are_spared() -> None:
    _, root = windowed(range(1, 41))
    give_back([root], last(5))
    assert held(root) == [0] * 20 + [*range(21, 41)], "40 - 5 + 1 = 36, and 16 before"


def test_given_back_slots_serve_again_once() -> None:
    store, root = windowed((10, 11, 12))
    assert root.kv is not None
    [run] = root.kv
    store._returned.clear()
    run.give_back(2)
    run.give_back(2)
    assert [ids.tolist() for ids in store._returned] == [[10, 11]]
    assert run.ids.tolist() == [0, 0, 12]


def test_slots_are_taken_over_where_own_ones_are_gone() -> None:
    store, root = windowed((10, 11, 0))
    leaf = read(store, root, 4, (4, 5), (0,), (0,))
    again = read(store, None, 0, range(6), (30,), (31, 32, 33, 34))
    leaf.take_over(again, 5, 1)
    assert (held(root), held(leaf)) == ([10, 11, 32], [33, 34])
    assert held(again) == [30, 31, 0, 0, 0], "each slot has one owner"
    assert [(at, ids.tolist()) for at, ids in leaf.slots(5, 2)] == [(3, [33]), (4, [34]), (2, [32])]
