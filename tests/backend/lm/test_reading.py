"""Texts that are read together: what each gets, and what the model does for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers import tiny
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.paths import _sum
from w2s_chains.backend.lm.reading import Reading, read


@pytest.fixture
def lm() -> CausalLM:
    return CausalLM(tiny.llama(320))


def plain(lm: CausalLM, segment: Segment) -> list[float]:
    """The log-probabilities of a segment's tokens by one forward, 0 for the first of a text."""
    ids = segment.path_ids()
    with torch.inference_mode():
        table = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    own = [0.0, *(table[i - 1, ids[i]].item() for i in range(1, len(ids)))]
    return own[segment.start :]


def watch(lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all logits from now on."""
    shapes: list[tuple[int, ...]] = []
    forward = lm.forward

    def watched(*args: Any, **options: Any) -> torch.Tensor:
        logits = forward(*args, **options)
        shapes.append((*logits.shape,))
        return logits

    monkeypatch.setattr(lm, "forward", watched)
    return shapes


def test_what_is_read_and_what_it_costs(lm: CausalLM) -> None:
    """Padding is none of it: rows and branches of other lengths."""
    lm.counters.tokens_read = 0
    roots = [Segment(None, 0, range(5, 5 + n)) for n in (1, 2, 7)]
    read(lm, [Reading(segment=root, scored=False) for root in roots])
    assert lm.counters.tokens_read == 1 + 1 + 6, "a column each at least"
    assert lm.counters.prefills == 3
    assert [root.logprobs for root in roots] == [()] * 3
    lm.counters.tokens_read = 0
    children = [Segment(roots[2], 7, ids) for ids in ((9,), (10, 11, 12), (13, 14))]
    read(lm, [Reading(segment=child, scored=True) for child in children])
    assert lm.counters.tokens_read == 1 + 0 + 2 + 1, "the token before siblings once"
    assert lm.counters.prefills == 3
    for child in children:
        assert child.logprobs == pytest.approx(plain(lm, child), abs=1e-4)


def test_the_same_tokens_after_the_same_segment_are_read_once() -> None:
    def identity(parent: Segment | None, start: int, *ids: int, end_id: int | None = None) -> Any:
        return Reading(segment=Segment(parent, start, ids), scored=True, end_id=end_id).identity

    root, twin = Segment(None, 0, (5, 6)), Segment(None, 0, (5, 6))
    one = identity(root, 2, 7, 8)
    assert identity(root, 2, 7, 8) == one
    others = [
        identity(twin, 2, 7, 8), identity(root, 1, 7, 8), identity(root, 2, 7, 9),
        identity(root, 2, 7, 8, end_id=1),
    ]  # fmt: skip
    assert len({one, *others}) == 5
    whole = [Reading(segment=own, scored=True) for own in (root, root)]
    assert whole[0].identity != whole[1].identity, "a text of its own"


def test_a_text_without_a_prompt_is_scored_from_its_second_token_on(lm: CausalLM) -> None:
    whole = Segment(None, 0, (5, 6, 7))
    reading = Reading(segment=whole, scored=True, end_id=1)
    read(lm, [reading])
    assert whole.logprobs == pytest.approx(plain(lm, whole), abs=1e-4)
    assert whole.logprobs[0] == 0.0
    ended = plain(lm, Segment(None, 0, (5, 6, 7, 1)))
    assert reading.end_logprob == pytest.approx(ended[-1], abs=1e-4)


def test_prompts_make_the_logits_of_one_token(
    lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = watch(lm, monkeypatch)
    root = Segment(None, 0, range(5, 25))
    read(lm, [Reading(segment=root, scored=False)])
    assert shapes == [(1, 1, 320)]


def test_memory_for_one_token_is_enough(lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s_chains.backend.lm.reading._LOGITS_PER_PASS", 1)
    shapes = watch(lm, monkeypatch)
    whole = Segment(None, 0, range(5, 15))
    read(lm, [Reading(segment=whole, scored=True)])
    assert shapes == [(1, 1, 320)] * 9
    assert whole.logprobs == pytest.approx(plain(lm, whole), abs=1e-4)


def scored(parent: Segment | None, start: int, *ids: int) -> Segment:
    segment = Segment(parent, start, ids)
    segment.logprobs = tuple(-float(token) for token in ids)
    return segment


def total(segment: Segment, prompt: tuple[int, ...]) -> tuple[int, float]:
    """Where scores begin, and their sum."""
    summed: Any = {}
    line: list[Segment] = []
    node: Segment | None = segment
    while node is not None:
        line.append(node)
        node = node.parent
    for node in reversed(line):
        summed[node] = _sum(node, prompt, summed)
    return summed[segment].first, summed[segment].total


def test_sums_cover_what_follows_the_prompt_whatever_was_tokenised_again() -> None:
    root = Segment(None, 0, (1, 2, 3))
    prompt = root.ids
    child = scored(root, 3, 4, 5)
    assert total(child, prompt) == (3, -9.0)
    assert total(scored(child, 5, 6), prompt) == (3, -15.0)
    # The last token of the prompt is another with the answer.
    other = scored(root, 2, 9, 5)
    assert total(other, prompt) == (2, -14.0)
    assert total(scored(other, 3, 7), prompt) == (2, -16.0)
    assert total(scored(other, 2, 3, 8), prompt) == (3, -8.0), "it is the prompt's again"
    # Several that begin at one place: only the last of them is on the path.
    first = scored(root, 3, 7, 8)
    second = scored(first, 4, 9)
    assert total(scored(second, 4, 10, 11), prompt) == (3, -28.0)
    assert total(scored(second, 3, 10), prompt) == (3, -10.0)
    third = scored(scored(first, 5, 1), 4, 2)
    assert total(scored(third, 4, 6), prompt) == (3, -13.0)
