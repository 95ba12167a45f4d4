"""Nodes as numbers: what events tell of a traced search."""

from __future__ import annotations

import gc

from w2s_chains import Hypothesis, TokenScores
from w2s_chains.engine.tree import Tree


def test_nodes_are_numbered_in_order_and_know_their_parents() -> None:
    root = Hypothesis.root("p")
    tree = Tree(root)
    a = root.extend("a", (1,), logprobs=(-1.0,))
    b = root.extend("bb", (2, 3), logprobs=(-0.5, -0.25), finish_reason="eos")
    first = tree.grown(1, [a, b])
    assert [(c.id, c.parent, c.text, c.tokens) for c in first.candidates] == [
        (1, 0, "a", 1), (2, 0, "bb", 2),
    ]  # fmt: skip
    assert [c.logprob for c in first.candidates] == [-1.0, -0.75]
    assert [c.finish_reason for c in first.candidates] == [None, "eos"]
    c = a.extend("c", (4,))
    [told] = tree.grown(2, [c]).candidates
    assert (told.id, told.parent, told.logprob) == (3, 1, None)
    assert [tree.id(h) for h in (root, a, b, c)] == [0, 1, 2, 3]


def test_a_chunk_of_several_nodes_is_one_candidate() -> None:
    root = Hypothesis.root("p")
    tree = Tree(root)
    end = root.extend("ab", (1,), logprobs=(-1.0,)).extend("cd", (2,), logprobs=(-2.0,))
    [told] = tree.grown(1, [end]).candidates
    assert (told.parent, told.text, told.tokens, told.logprob) == (0, "abcd", 2, -3.0)


def test_a_node_that_comes_again_is_not_new() -> None:
    root = Hypothesis.root("p")
    tree = Tree(root)
    a = root.extend("a", (1,))
    tree.grown(1, [a])
    assert tree.grown(2, [a]).candidates == ()


def test_nodes_of_the_strategys_own_count_as_their_ancestors() -> None:
    root = Hypothesis.root("p")
    tree = Tree(root)
    a = root.extend("a", (1,))
    tree.grown(1, [a])
    assert tree.id(a.extend("made up")) == 1
    assert tree.id(Hypothesis.root("p").extend("of another tree")) == 0


def test_what_the_strategy_lets_go_of_is_told_once() -> None:
    root = Hypothesis.root("p")
    tree = Tree(root)
    a, b = root.extend("a", (1,)), root.extend("b", (2,))
    assert tree.grown(1, [a, b]).dropped == ()
    c = b.extend("c", (3,))
    del a, b  # b lives on below c
    gc.collect()
    assert tree.grown(2, [c]).dropped == (1,)
    d = c.extend("d", (4,))
    assert tree.grown(3, [d]).dropped == ()


def test_tokens_that_a_candidate_adds() -> None:
    root = Hypothesis.root("p")
    tree = Tree(root)
    a = root.extend("one tw", (1,))
    b = a.extend("o", (2,), finish_reason="eos")
    tree.grown(1, [a])
    tree.grown(2, [b])

    def scores(*texts: str) -> TokenScores:
        numbers = tuple(range(len(texts)))
        return TokenScores(texts=texts, tuned=numbers, untuned=(0.5,) * len(texts), ended=False)

    whole = tree.guided(a, scores("one", " tw"))
    assert (whole.begin, whole.texts, whole.ratios) == (0, ("one", " tw"), (-0.5, 0.5))
    # The end of the parent is cut anew, and the end of the turn has no text.
    added = tree.guided(b, scores("one", " two", ""))
    assert (added.begin, added.texts, added.ratios) == (3, (" two", ""), (0.5, 1.5))


def test_tokens_without_a_text_belong_to_whom_they_came_with() -> None:
    """Several tokens spell a character; the last one has it."""
    root = Hypothesis.root("p")
    tree = Tree(root)
    a = root.extend("a", (1, 2), pending=(2,))
    b = a.extend("é", (3,))
    tree.grown(1, [a])
    tree.grown(2, [b])

    def scores(*texts: str) -> TokenScores:
        zeros = (0.0,) * len(texts)
        return TokenScores(texts=texts, tuned=zeros, untuned=zeros, ended=False)

    assert tree.guided(a, scores("a", "")).texts == ("a", "")
    assert tree.guided(b, scores("a", "", "é")).texts == ("é",)
    c = b.extend("", (4,), pending=(4,))
    assert tree.guided(c, scores("a", "", "é", "")).texts == ("",)
