"""Where all layers have windows, what no path sees any more takes no memory.

Slots are given back before a store grows; what a search still goes on from is read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.plain import FOREIGN, STRATEGIES, batched, generated, guided, searched
from tests.helpers.windowed import PROMPTS, WINDOW, build
from w2s_chains import Expand, HuggingFaceProposer, Hypothesis, SamplingParams
from w2s_chains.backend.kv import segment as segments
from w2s_chains.backend.kv.batch import Batch, GivenBackError
from w2s_chains.backend.kv.store import Slots, Store
from w2s_chains.backend.lm import causal_lm

KINDS = ("mistral", "mixtral", "starcoder2", "phi3")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Batch]]:
    """Give back whatever can be, whenever a slot is taken; collect what is read again."""
    take, again, read = Store.take, causal_lm.read_given_back, list[Any]()

    def take_of_full(self: Store, counts: Sequence[int]) -> list[Slots]:
        if self.users is not None:
            segments.give_back(self.users, lambda position: max(0, position - WINDOW + 1))
        return take(self, counts)

    def counted(*args: Any) -> None:
        read.append(args)
        again(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "take", take_of_full)
        patch.setattr(segments, "_SPARE", 0)
        patch.setattr(causal_lm, "read_given_back", counted)
        yield read


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_that_of_a_plain_forward(kind: str, full: list[Any]) -> None:
    model = build(kind)
    assert not causal_lm.CausalLM(model).memory.whole
    searched(model, PROMPTS)
    generated(model, PROMPTS)


@pytest.mark.parametrize("same", [True, False], ids=["same vocabulary", "another"])
def test_a_batch_is_its_single_calls(same: bool, full: list[Any]) -> None:
    def make() -> Any:
        return guided(lambda seed, **options: build("mistral", seed, **options), same)

    batched(make, PROMPTS, STRATEGIES if same else FOREIGN)


def grown(
    proposer: HuggingFaceProposer, h: Hypothesis, chunks: int, count: int = 1, seed: int = 0
) -> list[Hypothesis]:
    """Write chunks one after another that do not end, and several children in the end."""
    sampling = SamplingParams(max_tokens=1000, temperature=1.0)
    children = [h]
    while chunks:
        ask = Expand(
            hypotheses=tuple(children[:1]),
            chunk_tokens=8,
            sampling=sampling,
            seed=seed,
            successors=count if chunks == 1 else 1,
        )
        [found] = proposer.propose([ask])
        if any(child.finished for child in found):
            seed += 1
        else:
            children, chunks = found, chunks - 1
    return children


@pytest.mark.parametrize("rows", [1, 3])
def test_an_inner_node_that_is_expanded_again_is_read_again(rows: int, full: list[Any]) -> None:
    def run(whole: bool) -> list[str]:
        proposer = HuggingFaceProposer(build("mistral"), tiny.byte_tokenizer())
        proposer.lm.memory.whole = whole
        roots = [Hypothesis.root(prompt) for prompt in PROMPTS[:rows]]
        kept = [grown(proposer, root, 6) for root in roots]
        sampling = SamplingParams(max_tokens=99, temperature=1.0)
        asks = [
            Expand(hypotheses=(root,), chunk_tokens=8, sampling=sampling, seed=5) for root in roots
        ]
        again = [h for own in proposer.propose(asks) for h in own]
        then = [h for one in again if not one.finished for h in grown(proposer, one, 2, seed=5)]
        assert kept
        return [h.response for h in again + then]

    found = run(whole=False)
    assert full
    full.clear()
    assert found == run(whole=True)
    assert not full, "control: a memory that keeps everything reads nothing again"


def test_without_reading_again_the_search_fails(
    full: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: it does not go on with zeros."""
    proposer = HuggingFaceProposer(build("mistral"), tiny.byte_tokenizer())
    root = Hypothesis.root(PROMPTS[0])
    kept = grown(proposer, root, 6)
    monkeypatch.setattr(causal_lm, "read_given_back", lambda *args: None)
    with pytest.raises(GivenBackError):
        grown(proposer, root, 1, seed=5)
    assert kept


def most(whole: bool) -> tuple[int, int]:
    """The most slots and columns of a long search."""
    model = build("mistral", sliding_window=64, max_position_embeddings=2048)
    proposer = HuggingFaceProposer(model, tiny.byte_tokenizer())
    memory = proposer.lm.memory
    memory.whole = whole
    gather, columns = memory.gather, list[int]()

    def counted(*args: Any, **options: Any) -> Batch:
        batch = gather(*args, **options)
        columns.append(batch.kv[0][0].shape[3])
        return batch

    memory.gather = counted
    [root] = [Hypothesis.root("A")]
    kept = grown(proposer, root, 100, count=2)
    store = memory._store and memory._store()
    assert store is not None
    assert kept[0].n_tokens == 800
    return store.capacity, max(columns)


def test_memory_does_not_grow_with_the_text() -> None:
    slots, columns = most(whole=False)
    assert slots < 520, "two windows, and half as many again"
    assert columns < 64 + 64 // 8 + 16 + 8 * 2
    slots, columns = most(whole=True)
    assert slots > 800, "control"
    assert columns > 800
