"""The tree of hypotheses: what a search asks at every step equals what a walk to the root says."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import w2s_chains
from tests.benchmarks.tree import STRATEGIES, LastLetter, Letters
from w2s_chains import W2SLLM, Hypothesis
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import common_ancestor
from w2s_chains.engine.job import SearchHandle
from w2s_chains.engine.search_state import SearchState

PACKAGE = str(Path(w2s_chains.__file__).parent)
TEXTS = st.sampled_from(["", "a", "b", "ab", "ba", "aa", "é", "😀", "\ud800", "a\n"])
TREES = st.lists(st.tuples(st.integers(0, 10**6), TEXTS), min_size=1, max_size=60)


def grown(steps: Sequence[tuple[int, str]]) -> list[Hypothesis]:
    """A tree: each step continues an earlier node by a text."""
    nodes = [Hypothesis.root("p")]
    for at, text in steps:
        nodes.append(nodes[at % len(nodes)].extend(text))
    return nodes


def test_common_ancestor() -> None:
    root = Hypothesis.root("")
    a = root.extend("a")
    b, c = a.extend("b"), a.extend("c")
    assert common_ancestor([b.extend("x"), c]) is a
    assert common_ancestor([b]) is b
    assert common_ancestor([b, a]) is a
    assert common_ancestor([b, root.extend("z")]) is root
    with pytest.raises(ValueError, match="do not continue the same root"):
        common_ancestor([b, Hypothesis.root("").extend("a")])


@given(TREES)
def test_a_tree_knows_what_a_walk_to_the_root_says(steps: list[tuple[int, str]]) -> None:
    nodes = grown(steps)
    for node in nodes:
        assert node.origin is nodes[0]
        assert node.depth == len(node.path) - 1
        text = "".join(one.text for one in node.path)
        assert node.response == text
        assert node.n_chars == len(text)
        for begin in range(-1, len(text) + 2):
            assert node.text_from(begin) == text[max(begin, 0) :]
    for a, b in itertools.combinations(nodes, 2):
        assert (a.identity == b.identity) == (a.response == b.response)
        shared = [x for x, y in zip(a.path, b.path, strict=False) if x is y]
        assert common_ancestor([a, b]) is shared[-1]


@given(st.lists(TEXTS, min_size=30, max_size=400), st.data())
def test_far_ancestors_of_long_paths(texts: list[str], data: Any) -> None:
    nodes = grown(list(enumerate(texts)))
    fork = data.draw(st.integers(0, len(nodes) - 1))
    branch = nodes[fork]
    for text in texts[: data.draw(st.integers(1, 40))]:
        branch = branch.extend(text)
    for node in nodes[fork:]:
        assert common_ancestor([node, branch]) is nodes[fork]
    assert common_ancestor([nodes[-1], nodes[fork]]) is nodes[fork]


def test_identity_is_more_than_text() -> None:
    root = Hypothesis.root("")
    plain = root.extend("ab", (1, 2))
    assert plain.identity == root.extend("a", (1,)).extend("b", (3,)).identity
    for other in (
        root.extend("ab", (1, 2), finish_reason="eos"),
        root.extend("ab", (1, 2, 3), pending=(3,)),
        root.extend("ba", (1, 2)),
        root.extend("ab\0", (1, 2)),
    ):
        assert plain.identity != other.identity


def test_a_tree_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        nodes = grown([(i, "a") for i in range(20)])
        alive = [weakref.ref(node) for node in nodes]
        del nodes
        assert not any(ref() for ref in alive)
    finally:
        gc.enable()


def calls(strategy: str, chunks: int) -> int:
    """Count the calls of the package's functions for one answer.

    Imports, finalizers and coverage's own are none of the search.
    """
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    llm = W2SLLM(
        proposer=Letters(), scorer=LastLetter(), strategy=STRATEGIES[strategy], max_tokens=chunks
    )
    job = llm.jobs(["a"])[0]
    gc.disable()  # other tests may have left behind what the package finalises
    sys.setprofile(profile)
    try:
        state = SearchState(SearchHandle(job))
        while not state.over:
            if isinstance(state.ask, Expand):
                requests = state.requests()
                state.take_children(requests, Letters().propose(requests))
            else:
                assert job.scorer is not None
                state.take_scores(job.scorer.score(state.unscored()))
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_work_of_a_search_is_linear_in_its_chunks(strategy: str) -> None:
    short, long = calls(strategy, 250), calls(strategy, 1000)
    assert 3.5 < long / short < 4.5
