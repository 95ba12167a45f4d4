"""What a draw says of itself."""

from __future__ import annotations

import math
from dataclasses import replace

from w2s_chains import SamplingParams
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.sampling.draws import ALL_TOKENS, Draw, last_id
from w2s_chains.core.asks import Until

ROOT = Segment(None, 0, (5, 6, 7))
PLAIN = Draw(parents=(ROOT,), steps=4, sampling=SamplingParams(), place=("a", 1), n_tokens=2)


def test_a_plain_draw_is_limited_by_nothing() -> None:
    assert (PLAIN.most_entropy, PLAIN.least_top, PLAIN.least) == (math.inf, 0.0, 0)
    assert (PLAIN.weights, PLAIN.known, PLAIN.parent_place) == ((), ALL_TOKENS, ())
    assert PLAIN.state is PLAIN.rank is PLAIN.until is PLAIN.end_of is None
    assert PLAIN.first_place == PLAIN.place
    assert PLAIN.cost == 3 + 4


def test_what_has_begun_counts() -> None:
    until = Until(entropy=1.5, top_probability=0.4, least=3)
    begins = replace(PLAIN, until=until)
    assert (begins.most_entropy, begins.least_top, begins.least) == (1.5, 0.4, 3)
    assert [replace(begins, begun=count).least for count in (1, 3, 5)] == [2, 0, 0]


def test_siblings_share_a_distribution_and_those_without_replacement_their_noise() -> None:
    sibling = replace(PLAIN, place=("a", 2))
    assert PLAIN.distribution == sibling.distribution
    others = [
        replace(PLAIN, parents=(Segment(None, 0, (5, 6, 7)),)),
        replace(PLAIN, sampling=SamplingParams()),
        replace(PLAIN, weights=(0.5,)),
        replace(PLAIN, rank=0),
    ]
    assert all(other.distribution != PLAIN.distribution for other in others)
    ranked = replace(PLAIN, rank=0, parent_place=("a", 0))
    assert ranked.first_place == ("a", 0)
    assert ranked.distribution == replace(ranked, rank=1).distribution


def test_the_last_token_of_a_text_that_adds_none() -> None:
    child = Segment(ROOT, 3, (9,))
    assert last_id(child) == 9
    assert last_id(Segment(child, 3, ())) == 7
    assert last_id(Segment(child, 2, ())) == 6
