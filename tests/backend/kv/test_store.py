"""Slots hold what was put into them, serve again when they are free, and go with their store."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Collection

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from w2s_chains.backend.kv.store import Plane, Slots, Store

PLANES = [
    Plane(
        layers=layers,
        heads=2,
        key_dim=key_dim,
        value_dim=3,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    for layers, key_dim in (((0, 2), 4), ((1,), 5))
]


def put(store: Store, value: float, count: int) -> Slots:
    [slots] = store.take([count])
    kv = [plane.zeros(1, count) for plane in PLANES]
    for keys, values in kv:
        keys += value
        values -= value
    store.put(slots.ids, kv, np.arange(count))
    return slots


def held(store: Store, slots: Slots) -> set[float]:
    found: set[float] = set()
    for keys, values in store.gather(slots.ids[None]):
        found |= {*keys.flatten().tolist(), *(-values).flatten().tolist()}
    return found


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=30))
def test_what_is_held_stays_while_others_come_and_go(steps: list[tuple[int, bool]]) -> None:
    store = Store(PLANES)
    kept: dict[int, Slots] = {}
    for i, (count, drop) in enumerate(steps, 1):
        if drop and kept:
            del kept[next(iter(kept))]
        kept[i] = put(store, i, count)
        assert store.used == sum(len(own.ids) for own in kept.values())
    taken = [slot for own in kept.values() for slot in own.ids.tolist()]
    assert len(set(taken)) == len(taken)
    assert 0 not in taken
    for i, own in kept.items():
        assert held(store, own) == {float(i)}


def test_slots_serve_again_so_that_a_store_does_not_grow_for_ever() -> None:
    store = Store(PLANES)
    kept = [put(store, 1, 100) for _ in range(4)]
    capacity = store.capacity
    for _ in range(100):  # now here, now there, whatever was beside it
        kept.pop(0 if len(kept) % 2 else -1)
        kept.append(put(store, 2, 100))
    assert store.capacity == capacity
    assert store.capacity < 2 * 400 + 256
    kept.clear()
    assert store.used == 0


def test_a_store_grows_by_what_it_lacks_or_by_half() -> None:
    store = Store(PLANES)
    kept = [store.take([10])]
    free = store.capacity - 1 - store.used
    kept.append(store.take([free]))
    assert store.used == store.capacity - 1, "what is free suffices"
    kept.append(store.take([7]))
    lacking = 5000 - (store.capacity - 1 - store.used)
    before = store.capacity
    kept.append(store.take([2000, 3000]))
    assert store.capacity == before + lacking
    sizes = {store.capacity}
    while store.capacity < 40_000:
        kept.append(store.take([100]))
        sizes.add(store.capacity)
    assert len(sizes) <= 8, "half as many again each time, so that each slot is copied twice or so"


@pytest.mark.parametrize("plane", PLANES)
def test_the_size_of_a_token_is_that_of_its_keys_and_values(plane: Plane) -> None:
    assert plane.bytes_per_token == sum(own.nbytes for own in plane.empty(1))
    assert plane.bytes_per_token * 12 == sum(own.nbytes for own in plane.zeros(3, 4))


def test_columns_without_a_token_are_zero() -> None:
    store = Store(PLANES)
    slots = put(store, 7, 2)
    keys, _ = store.gather(np.array([[0, slots.ids[0]], [slots.ids[1], 0]]))[0]
    assert keys[:, :, 0, 0].eq(0).all()
    assert keys[:, :, 1, 1].eq(0).all()
    assert keys[:, :, 0, 1].eq(7).all()
    assert keys.shape == (2, 2, 2, 2, 4)


def test_a_store_goes_with_its_last_slots_on_any_thread() -> None:
    gc.disable()
    try:
        store = Store(PLANES)
        slots = [put(store, 1, 3), put(store, 2, 3)]
        alive = weakref.ref(store)
        del store
        dropping = threading.Thread(target=slots.pop)
        dropping.start()
        dropping.join()
        assert alive() is not None
        slots.clear()
        assert alive() is None
    finally:
        gc.enable()


def test_memory_that_does_not_suffice_leaves_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(PLANES)
    kept = put(store, 1, 10)
    empty = Plane.empty

    grown: list[Plane] = []

    def exhausted(self: Plane, *shape: int) -> object:
        if self is PLANES[1]:
            raise torch.OutOfMemoryError("no memory")
        grown.append(self)
        return empty(self, *shape)

    with monkeypatch.context() as patch:
        patch.setattr(Plane, "empty", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            store.take([10_000])
        with pytest.raises(torch.OutOfMemoryError):
            store.take([10_000])
    assert grown == PLANES[:1], "what has grown is not copied again"
    assert held(store, kept) == {1.0}
    assert held(store, put(store, 2, 5_000)) == {2.0}
    assert held(store, kept) == {1.0}


class User:
    """Holds slots, as a segment does."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots


def test_slots_are_given_back_before_a_store_grows() -> None:
    seen: list[int] = []

    def give_back(users: Collection[User]) -> None:
        seen.append(len(users))
        for user in users:
            user.slots.give_back(100)

    store = Store(PLANES, give_back)
    assert store.users is not None
    held = [User(slots) for slots in store.take([120, 120])]
    for user in held:
        store.users.add(user)
    assert (store.capacity, seen) == (257, [0]), "at first there is nobody to ask"
    held += [User(slots) for slots in store.take([50])]
    assert (store.capacity, seen) == (257, [0, 2])
    assert store.used == 20 + 20 + 50
    store.take([190])
    assert seen == [0, 2, 2]
    assert store.capacity > 257, "a quarter stays free, or each call would ask again"
    ids = [slot for user in held for slot in user.slots.ids.tolist() if slot]
    assert len(ids) == len(set(ids)) == 90
    del user, held
    assert store.used == 0
