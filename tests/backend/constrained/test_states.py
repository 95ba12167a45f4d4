"""States of a grammar: independent, cut anywhere, ended where the text may end."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.helpers.grammars import CPU, NO_LIMIT, compiled, decode, grammars, needed, spelt
from tests.helpers.schemas import PERSON
from w2s_chains.backend.constrained.grammar import Grammar, GrammarState, allowed, choose
from w2s_chains.core.sampling import Constraint


def replay(grammar: Grammar, ids: Sequence[int]) -> GrammarState:
    state = grammar.start
    for token in ids:
        after = state.advance(token, NO_LIMIT)
        assert after is not None, (decode(grammar, ids), token)
        state = after
    return state


def test_states_do_not_influence_each_other() -> None:
    grammar = compiled(PERSON)
    start = spelt(grammar, '{"name": "é')
    parent = replay(grammar, start)
    before = parent.mask.clone()
    follow = ["ab", '"', "\\", "🙂", '", "age": 1', ""]
    children = [replay_from(parent, spelt(grammar, text)) for text in follow]
    masks = [child.mask.clone() for child in children]
    for text, child, mask in zip(follow, children, masks, strict=True):
        fresh = replay(grammar, (*start, *spelt(grammar, text)))
        assert torch.equal(mask, fresh.mask)
        assert torch.equal(mask, child.mask)
        assert child.accepting == fresh.accepting
    assert torch.equal(before, parent.mask)
    assert torch.equal(before, replay(grammar, start).mask)
    assert len({tuple(mask.tolist()) for mask in masks}) == 4, "control: they differ"


def replay_from(state: GrammarState, ids: Sequence[int]) -> GrammarState:
    for token in ids:
        after = state.advance(token, NO_LIMIT)
        assert after is not None
        state = after
    return state


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False))
def test_tokens_and_chunks_may_cut_anywhere(rng: random.Random) -> None:
    """What is allowed depends on the bytes so far, not on the tokens that they came in."""
    grammar, text, bytewise = one_byte_at_a_time()
    ids_of = {piece: token for token, piece in grammar.vocabulary.pieces.items()}
    state = grammar.start
    at = 0
    while at < len(text):
        sizes = [n for n in range(1, 12) if text[at : at + n] in ids_of and at + n <= len(text)]
        size = rng.choice(sizes)
        state = replay_from(state, [ids_of[text[at : at + size]]])
        at += size
        assert torch.equal(state.mask, bytewise[at])
    assert state.accepting
    assert state.complete


@functools.cache
def one_byte_at_a_time() -> tuple[Grammar, bytes, list[Tensor]]:
    """A text, and what may follow each beginning of it."""
    grammar = compiled(PERSON)
    text = (
        '{"name": "Zoë \\"🙂\\" 日本\\n", "age": 120, "größe": "groß", "tags": ["é", ""]}'.encode()
    )
    ids_of = {piece: token for token, piece in grammar.vocabulary.pieces.items()}
    states = [grammar.start]
    for byte in text:
        states.append(replay_from(states[-1], [ids_of[bytes([byte])]]))
    return grammar, text, [state.mask for state in states]


def test_end_tokens_are_allowed_exactly_where_the_text_may_be_over() -> None:
    grammar = compiled({"type": "integer", "minimum": 0, "maximum": 99})
    ends = sorted(grammar.vocabulary.end_ids)
    assert ends == [0, 2]
    size = grammar.vocabulary.size
    for text, accepting, complete in [("", False, False), ("4", True, False), ("42", True, True)]:
        state = replay(grammar, spelt(grammar, text))
        mask = allowed([state], size, CPU)[0]
        assert (state.accepting, state.complete) == (accepting, complete)
        assert mask[ends].tolist() == [accepting] * 2
        assert (mask.nonzero().flatten().tolist() == ends) == complete
        for end in ends:
            after = state.advance(end, NO_LIMIT)
            assert (after is not None and after.ended) == accepting


def test_special_tokens_are_never_allowed() -> None:
    grammar = grammars().compile(Constraint.regex("(?s:.*)"))
    mask = allowed([grammar.start], grammar.vocabulary.size, CPU)[0]
    assert mask[[0, 2]].all()
    assert not mask[[1, *range(3, 17)]].any()
    assert mask.sum() > 40_000, "control: nearly everything else is"
    assert grammar.start.advance(1, NO_LIMIT) is None


def test_the_table_of_logits_may_be_larger_than_the_vocabulary() -> None:
    grammar = compiled(PERSON)
    over = replay(grammar, spelt(grammar, "{"))
    ended = compiled({"const": 1}).start
    for token in (*spelt(grammar, "1"), 2):
        after = ended.advance(token, NO_LIMIT)
        assert after is not None
        ended = after
    for size in (49_152, 49_153, 50_000):
        mask = allowed([grammar.start, None, over, ended], size, CPU)
        assert mask.shape == (4, size)
        assert not mask[[0, 2], 49_152:].any()
        assert mask[[1, 3]].all(), "rows that are not constrained, or over, are left alone"
        assert mask[0].any()
        assert not torch.equal(mask[0], mask[2])


def test_rows_are_chosen_as_if_alone() -> None:
    grammar = compiled(PERSON)
    states = [grammar.start, replay(grammar, spelt(grammar, '{"name": "')), grammar.start]
    left = [grammar.shortest, needed(replay(grammar, spelt(grammar, '{"name": "'))), 80]
    scores = torch.rand(3, grammar.vocabulary.size, generator=torch.Generator().manual_seed(0))
    scores = scores.masked_fill(~allowed(states, scores.shape[1], CPU), float("-inf"))
    together = choose(scores.clone(), states, left)[0]
    alone = [
        choose(scores[i : i + 1].clone(), states[i : i + 1], left[i : i + 1])[0][0]
        for i in range(3)
    ]
    assert together == alone
    assert together[1] != scores[1].argmax(), "control: the budget refuses the best of this row"


def test_a_row_without_any_fitting_candidate_takes_the_way_out() -> None:
    """A filter such as top-k may have left only tokens that the budget refuses."""
    grammar = compiled(PERSON)
    state = replay(grammar, spelt(grammar, '{"name": "'))
    scores = torch.full((1, grammar.vocabulary.size), float("-inf"))
    scores[0, spelt(grammar, "hello")[0]] = 0.0
    (token,), (after,) = choose(scores, [state], [needed(state)])
    assert token == state.way_out
    assert after.curtailed
