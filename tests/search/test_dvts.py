"""Diverse verifier tree search: by hand, by counting, against single subtrees, on tiny models."""

from __future__ import annotations

import itertools
import math
import random
import weakref
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.helpers.llms import PROMPTS
from tests.helpers.streams import letters, value
from w2s_chains import (
    DVTS,
    W2SLLM,
    ChunkBeamSearch,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
)
from w2s_chains.core.asks import Commit, Score
from w2s_chains.search import build_strategy
from w2s_chains.search import kl_bounds as bounds
from w2s_chains.testing import drive


def test_every_subtree_keeps_its_best_child_however_good_the_others_are() -> None:
    """Both children of the first subtree are better than all others; b leads to the best answer."""
    words = {"": ["a9", "a8", "b1", "b0"], "a9": ["x2", "x3"], "b1": ["y4", "z5"]}

    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend(word, (1,), finish_reason="eos" if h.depth else None)
            for h in ask.hypotheses
            for word in words[h.response][: ask.successors]
        ]

    def last(h: Hypothesis) -> float:
        return float(h.response[-1])

    trace = drive(DVTS(subtrees=2, successors=2, chunk_tokens=1), propose, last)
    assert trace.answer.response == "b1z5"
    first, second = trace.expansions
    assert (first.successors, len(first.hypotheses)) == (4, 1)
    assert (second.successors, [h.response for h in second.hypotheses]) == (2, ["a9", "b1"])

    words["a8"] = ["x0", "x1"]
    beam = drive(ChunkBeamSearch(width=2, successors=2, chunk_tokens=1), propose, last)
    assert beam.answer.response == "a9x3", "control: there the first subtree crowds out the other"


@settings(max_examples=150, deadline=None)
@given(
    subtrees=st.integers(1, 4),
    successors=st.integers(1, 4),
    chunk=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
def test_it_is_the_best_of_independent_searches(
    subtrees: int, successors: int, chunk: int, seed: int
) -> None:
    """A subtree is a chunk beam of width 1 whose first children have other numbers."""
    make = letters(seed, end=0.15)
    one = ChunkBeamSearch(width=1, successors=successors, chunk_tokens=chunk)

    def numbered(number: int) -> Any:
        def propose(ask: Expand) -> list[Hypothesis]:
            at_root = ask.hypotheses[0].parent is None
            return make(replace(ask, first=number * successors if at_root else 0))

        return propose

    singles = [drive(one, numbered(i), value) for i in range(subtrees)]
    strategy = DVTS(subtrees=subtrees, successors=successors, chunk_tokens=chunk)
    trace = drive(strategy, make, value)
    best = max((single.answer for single in singles), key=value)
    assert trace.answer.finished
    assert trace.answer.identity == best.identity
    assert len(trace.expansions) == max(len(single.expansions) for single in singles)
    sampled = sum(ask.successors * len(ask.hypotheses) for ask in trace.expansions)
    assert sampled == sum(successors * len(single.expansions) for single in singles)
    assert all(trace.answer.response.startswith(text) for text in trace.committed)


def test_subtrees_are_not_one_beam() -> None:
    """Control: a beam of the same size finds other answers."""

    def answers(strategy: Any) -> list[str]:
        return [drive(strategy, letters(seed), value).answer.response for seed in range(30)]

    beam = answers(ChunkBeamSearch(width=3, successors=2, chunk_tokens=2, return_best="finished"))
    subtrees = answers(DVTS(subtrees=3, successors=2, chunk_tokens=2))
    assert sum(a != b for a, b in zip(beam, subtrees, strict=True)) > 10


def test_identical_candidates_of_a_subtree_are_scored_once() -> None:
    trace = drive(DVTS(subtrees=3, successors=8, chunk_tokens=1), letters(alphabet="ab"), value)
    [first, *_] = [ask for ask in trace.asks if isinstance(ask, Score)]
    assert 6 <= len(first.hypotheses) <= 3 * 4, "two letters, each with two endings"
    assert trace.expansions[0].successors == 24, "control"


@pytest.mark.parametrize(
    ("ends", "grown", "answer"),
    [
        (("aa", "ca"), [[""], ["a", "c"]], "aa"),
        (("aaa", "ca"), [[""], ["a", "c"], ["aa"]], "ca"),
        (("a", "c"), [[""]], "a"),
    ],
)
def test_the_first_of_equals_is_kept(ends: tuple[str, ...], grown: Any, answer: str) -> None:
    """Among the children of a subtree, the answers of a round, and those of several rounds."""

    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend(letter, (1,), finish_reason="eos" if h.response + letter in ends else None)
            for h in ask.hypotheses
            for letter in "abcd"[: ask.successors]
        ]

    trace = drive(DVTS(subtrees=2, successors=2, chunk_tokens=1), propose, lambda h: 0.0)
    assert [[h.response for h in ask.hypotheses] for ask in trace.expansions] == grown
    assert trace.answer.response == answer


CHANCES = {"a": 0.5, "b": 0.3, "c": 0.2}
VALUES = {"a": 1.0, "b": 2.0, "c": 0.0}


def tied(numbers: random.Random) -> Any:
    """Two letters by ``CHANCES``, one per chunk."""

    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend(
                numbers.choices(list(CHANCES), list(CHANCES.values()))[0],
                (1,),
                finish_reason="length" if h.depth else None,
            )
            for h in ask.hypotheses
            for _ in range(ask.successors)
        ]

    return propose


def worth(text: str) -> float:
    """Not greedy: "ca" is the best answer, though c is the worst beginning."""
    return {"ca": 9.0, "ac": 5.0}.get(text, sum(VALUES[letter] for letter in text))


def exact(subtrees: int, successors: int) -> dict[str, float]:
    """The distribution of the answer, from all that a subtree can draw."""
    single: dict[str, float] = {}

    def best(prefix: str) -> dict[str, float]:
        chances: dict[str, float] = dict.fromkeys(CHANCES, 0.0)
        for drawn in itertools.product(CHANCES, repeat=successors):
            kept = max(drawn, key=lambda letter: worth(prefix + letter))
            chances[kept] += math.prod(CHANCES[letter] for letter in drawn)
        return chances

    for first, chance in best("").items():
        for second, own in best(first).items():
            single[first + second] = chance * own
    # The best of several: the distribution function to the power of their number.
    ranked = sorted(single, key=worth)
    below = [0.0, *itertools.accumulate(single[text] for text in ranked)]
    return {text: below[i + 1] ** subtrees - below[i] ** subtrees for i, text in enumerate(ranked)}


@pytest.mark.parametrize(("subtrees", "successors"), [(1, 2), (2, 2), (3, 1), (3, 2)])
def test_answers_have_the_exact_distribution(subtrees: int, successors: int) -> None:
    times = 4000
    numbers = random.Random(1)
    strategy = DVTS(subtrees=subtrees, successors=successors, chunk_tokens=1)
    # Texts of equal worth are one outcome: ab and ba.
    found = Counter(
        worth(drive(strategy, tied(numbers), lambda h: worth(h.response)).answer.response)
        for _ in range(times)
    )

    def fit(law: dict[str, float]) -> float:
        classes = dict.fromkeys(map(worth, law), 0.0)
        for text, chance in law.items():
            classes[worth(text)] += chance
        rare = [kind for kind in classes if classes[kind] * times < 5]
        pools = [[kind] for kind in classes if kind not in rare] + ([rare] if rare else [])
        observed = [sum(found[kind] for kind in pool) for pool in pools]
        expected = [times * sum(classes[kind] for kind in pool) for pool in pools]
        fitted: Any = chisquare(observed, expected)
        return fitted.pvalue

    assert fit(exact(subtrees, successors)) > 1e-3
    assert fit(exact(subtrees + 1, successors)) < 1e-3, "control"
    assert fit(exact(subtrees, successors + 1)) < 1e-3, "control"


def test_text_is_committed_where_only_one_contender_is_left() -> None:
    make = letters(seed=3, end=0.0, limit=12)
    several = drive(DVTS(subtrees=2, successors=2, chunk_tokens=3), make, value)
    assert several.committed == ["", "", "", several.answer.response]
    one = drive(DVTS(subtrees=1, successors=2, chunk_tokens=3), make, value)
    assert [len(text) for text in one.committed] == [3, 6, 9, 12]


def test_rejected_branches_are_dropped_before_the_next_round() -> None:
    alive: list[weakref.ref[Hypothesis]] = []
    counts: list[int] = []
    make = letters(end=0.02, limit=40)
    search = DVTS(subtrees=3, successors=4, chunk_tokens=2).search(Hypothesis.root(""))
    answer: Any = None
    try:
        while True:
            ask = search.send(answer)
            if isinstance(ask, Expand):
                counts.append(sum(ref() is not None for ref in alive))
                answer = make(ask)
                alive.extend(weakref.ref(child) for child in answer)
            elif isinstance(ask, Score):
                answer = [value(h) for h in ask.hypotheses]
            else:
                assert isinstance(ask, Commit)
                answer = None
            del ask
    except StopIteration:
        pass
    assert all(count <= 4 * i for i, count in enumerate(counts)), "tips, the best, their ancestors"
    assert len(alive) > 2 * max(counts), "control"


def test_the_bound_of_its_divergence() -> None:
    strategy = DVTS(subtrees=3, successors=4)
    assert strategy.kl_bound(5) == pytest.approx(bounds.best_of(3) + 5 * math.log(4))
    assert strategy.kl_bound(5) < bounds.chunk_beam(3, 4, 5)
    assert DVTS(subtrees=1, successors=4).kl_bound(5) == bounds.chunk_beam(1, 4, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"subtrees": 0},
        {"successors": 0},
        {"chunk_tokens": None},
        {"chunk_tokens": 0},
        {"steering": math.nan},
        {"width": 3},
    ],
)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "dvts", **wrong})
    with pytest.raises(ConfigError, match="partial answers would grow"):
        build_strategy({"type": "dvts", "subtrees": 2**10, "successors": 2**10})


def test_it_is_its_own_config() -> None:
    strategy = DVTS(subtrees=2, successors=3, chunk_tokens=7, steering=0.5)
    assert build_strategy(strategy.model_dump()) == strategy
    assert strategy.token_steering == 0.5
    assert strategy.branches == 6
    trace = drive(strategy, letters(), value)
    assert {(ask.steering, ask.chunk_tokens) for ask in trace.expansions} == {(0.5, 7)}


def test_on_models_one_subtree_is_chunk_beam_of_width_one(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, max_tokens=12, seed=3)
    beam = llm.batch(PROMPTS, strategy=ChunkBeamSearch(width=1, successors=3, chunk_tokens=4))
    assert llm.batch(PROMPTS, strategy=DVTS(subtrees=1, successors=3, chunk_tokens=4)) == beam
    several = DVTS(subtrees=3, successors=3, chunk_tokens=4)
    assert llm.batch(PROMPTS, strategy=several) != beam, "control"
    one, more = (
        [
            (own[0].generation_info or {})["score"]
            for own in llm.generate(PROMPTS, strategy=strategy).generations
        ]
        for strategy in (DVTS(subtrees=1, successors=3, chunk_tokens=4), several)
    )
    gains = [b - a for a, b in zip(one, more, strict=True)]
    assert min(gains) > -1e-4, "the first subtree is among them"
    assert max(gains) > 1, "control"
