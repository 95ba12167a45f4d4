"""What asks say of themselves."""

from __future__ import annotations

from typing import Any

from w2s_chains import Expand, Hypothesis
from w2s_chains.core.asks import Until
from w2s_chains.core.sampling import DEFAULT_SAMPLING, fork

ROOT = Hypothesis.root("x")


def test_an_ask_that_says_nothing_more() -> None:
    ask = Expand(hypotheses=(ROOT,))
    assert (ask.successors, ask.chunk_tokens, ask.first, ask.seed, ask.steering) == (
        1,
        None,
        0,
        0,
        0,
    )
    assert ask.distinct is ask.may_be_whole is ask.drafts is ask.by_guide is False
    assert ask.chunk_tokens is ask.until is ask.guides is ask.constraint is None
    assert ask.sampling is DEFAULT_SAMPLING
    assert ask.cancelled() is False
    assert ask.needs == frozenset()


def test_what_an_ask_needs_of_a_proposer() -> None:
    options: tuple[tuple[str, Any], ...] = (
        ("distinct", True),
        ("until", Until()),
        ("drafts", True),
        ("by_guide", True),
    )
    for name, option in options:
        own: dict[str, Any] = {name: option}
        assert Expand(hypotheses=(ROOT,), **own).needs == {name}
    every = Expand(hypotheses=(ROOT,), distinct=True, until=Until(), drafts=True, by_guide=True)
    assert every.needs == {"distinct", "until", "drafts", "by_guide"}


def test_the_first_child_goes_on_with_its_parents_stream() -> None:
    parent = ROOT.extend("ab", (1, 2), stream=7)
    ask = Expand(hypotheses=(parent,), successors=3)
    assert ask.streams(parent) == [7, fork(7, 1, 2), fork(7, 2, 2)]
    later = Expand(hypotheses=(parent,), successors=2, first=2)
    assert later.streams(parent) == [fork(7, 2, 2), fork(7, 3, 2)]


def test_what_ends_a_chunk() -> None:
    plain = Until()
    assert (plain.strings, plain.word, plain.least) == ((), False, 1)
    assert plain.entropy is plain.top_probability is None
    by_text = [Until(word=True), Until(strings=("a",)), Until(strings=("a",), word=True)]
    assert [own.by_text for own in by_text] == [True] * 3
    others = [plain, Until(entropy=1.0), Until(top_probability=0.5, least=3)]
    assert [own.by_text for own in others] == [False] * 3
