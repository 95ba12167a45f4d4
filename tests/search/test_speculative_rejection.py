"""Speculative rejection: who is rejected by hand, by counting, best-of-N as a limit, on models."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.llms import PROMPTS
from tests.helpers.streams import letters, value
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SearchStrategy,
    SpeculativeRejection,
)
from w2s_chains.core.asks import Commit, Score
from w2s_chains.search import build_strategy
from w2s_chains.search import kl_bounds as bounds
from w2s_chains.testing import drive


def fates(ends: dict[str, int]) -> Any:
    """Answers "a", "b", ... that repeat their letter, and end at a length of their own."""

    def propose(ask: Expand) -> list[Hypothesis]:
        parents = [h for h in ask.hypotheses for _ in range(ask.successors)]
        names = [h.response[:1] or name for h, name in zip(parents, ends, strict=False)]
        return [
            h.extend(name, (1,), finish_reason="eos" if h.depth + 1 == ends[name] else None)
            for h, name in zip(parents, names, strict=True)
        ]

    return propose


def test_the_worst_share_is_rejected_and_the_finished_stay() -> None:
    """a leads at the end, but is rejected first; b is finished early, and better than the rest."""
    ends = {"a": 9, "b": 1, "c": 4, "d": 4, "e": 3, "f": 9}
    scores = {"a": 0.0, "b": 1.5, "c": 3.0, "d": 2.0, "e": 1.0, "f": 0.5}
    late = {"ccc": 0.0, "cccc": 1.0, "dddd": 2.5, "a" * 9: 100.0}

    def worth(h: Hypothesis) -> float:
        return late.get(h.response, scores[h.response[0]])

    strategy = SpeculativeRejection(n=6, alpha=0.5, chunk_tokens=1)
    trace = drive(strategy, fates(ends), worth)
    # Of five unfinished ones two are rejected, of three one, and one of two; b counts in none.
    grown = [[h.response for h in ask.hypotheses] for ask in trace.expansions]
    assert grown == [[""], ["c", "d", "e"], ["cc", "dd"], ["ddd"]]
    assert [ask.successors for ask in trace.expansions] == [6, 1, 1, 1]
    assert trace.answer.response == "dddd"
    late["dddd"] = 1.4
    assert drive(strategy, fates(ends), worth).answer.response == "b", "an early one may win"
    none = SpeculativeRejection(n=6, alpha=0.0, chunk_tokens=1)
    assert drive(none, fates(ends), worth).answer.response == "a" * 9, "control"


@pytest.mark.parametrize(
    ("alpha", "numbers"),
    [
        (0.0, [8, 8, 8, 8, 8, 8]),
        (0.1, [8, 8, 8, 8, 8, 8]),
        (0.25, [8, 6, 5, 4, 3, 3]),
        (0.5, [8, 4, 2, 1, 1, 1]),
        (0.99, [8, 1, 1, 1, 1, 1]),
    ],
)
def test_how_many_go_on(alpha: float, numbers: list[int]) -> None:
    make = letters(end=0.0, limit=12)
    trace = drive(SpeculativeRejection(n=8, alpha=alpha, chunk_tokens=2), make, value)
    rows = [len(ask.hypotheses) * ask.successors for ask in trace.expansions]
    assert rows == numbers
    assert {ask.chunk_tokens for ask in trace.expansions} == {2}
    assert trace.answer.finished


def test_ties_reject_the_last() -> None:
    ends = dict.fromkeys("abcd", 3)
    trace = drive(SpeculativeRejection(n=4, chunk_tokens=1), fates(ends), lambda h: 0.0)
    grown = [[h.response for h in ask.hypotheses] for ask in trace.expansions]
    assert grown == [[""], ["a", "b"], ["aa"]]


@settings(max_examples=150, deadline=None)
@given(n=st.integers(1, 9), chunk=st.integers(1, 14), seed=st.integers(0, 10_000))
def test_without_rejection_it_is_best_of_n(n: int, chunk: int, seed: int) -> None:
    make = letters(seed, alphabet="ab", end=0.3)
    strategy = SpeculativeRejection(n=n, alpha=0.0, chunk_tokens=chunk)
    kinds: list[Callable[[Hypothesis], float]] = [value, lambda h: 0.0, lambda h: h.n_chars % 2]
    for worth in kinds:
        whole = drive(BestOfN(n=n), make, worth).answer
        assert drive(strategy, make, worth).answer.identity == whole.identity


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 9),
    alpha=st.floats(0, 0.999),
    chunk=st.integers(1, 14),
    seed=st.integers(0, 10_000),
)
def test_the_answer_is_one_of_the_samples(n: int, alpha: float, chunk: int, seed: int) -> None:
    """Which the bound of its divergence rests on."""
    make = letters(seed)
    trace = drive(SpeculativeRejection(n=n, alpha=alpha, chunk_tokens=chunk), make, value)
    [whole] = drive(BestOfN(n=n), make, value).expansions
    assert trace.answer.identity in {h.identity for h in make(whole)}
    seen = [h for ask in trace.asks if isinstance(ask, Score) for h in ask.hypotheses]
    assert value(trace.answer) == max(value(h) for h in seen if h.finished)
    assert all(trace.answer.response.startswith(text) for text in trace.committed)


def test_with_rejection_it_is_not_best_of_n() -> None:
    """Control."""
    pairs = [
        (
            drive(BestOfN(n=8), letters(seed), value).answer.response,
            drive(SpeculativeRejection(n=8, chunk_tokens=2), letters(seed), value).answer.response,
        )
        for seed in range(30)
    ]
    assert sum(a != b for a, b in pairs) > 10


def test_text_is_committed_once_one_answer_is_left() -> None:
    make = letters(end=0.0, limit=12)
    trace = drive(SpeculativeRejection(n=4, chunk_tokens=3), make, value)
    # Two of four go on, then one.
    assert [len(text) for text in trace.committed] == [0, 6, 9, 12]


def test_rejected_answers_are_dropped_before_the_next_round() -> None:
    alive: list[weakref.ref[Hypothesis]] = []
    counts: list[int] = []
    make = letters(end=0.05, limit=30)
    search = SpeculativeRejection(n=16, chunk_tokens=2).search(Hypothesis.root(""))
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
    # Paths to at most 8, 4, 2, 1 unfinished answers and to the best finished one.
    kept = [0, 8, 4, 2, *[1] * 20]
    assert all(count <= (kept[i] + 1) * i for i, count in enumerate(counts))
    assert len(counts) > 3, "control"


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"alpha": 1.0},
        {"alpha": -0.1},
        {"alpha": math.nan},
        {"chunk_tokens": 0},
        {"chunk_tokens": None},
        {"steering": math.inf},
        {"share": 1},
    ],
)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "speculative_rejection", **wrong})


def test_it_is_its_own_config() -> None:
    strategy = SpeculativeRejection(n=7, alpha=0.25, chunk_tokens=9, steering=0.5)
    assert build_strategy(strategy.model_dump()) == strategy
    assert (strategy.branches, strategy.token_steering, strategy.scores_partial) == (7, 0.5, True)
    assert strategy.kl_bound(3) == bounds.best_of(7)
    assert {ask.steering for ask in drive(strategy, letters(), value).expansions} == {0.5}


def test_on_models_without_rejection_it_is_best_of_n(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, max_tokens=16, seed=0)

    def run(strategy: SearchStrategy) -> tuple[list[str], int]:
        own = [answers[0] for answers in llm.generate(PROMPTS, strategy=strategy).generations]
        spent = sum((answer.generation_info or {})["proposed_tokens"] for answer in own)
        return [answer.text for answer in own], spent

    whole = run(BestOfN(n=5))
    assert run(SpeculativeRejection(n=5, alpha=0.0, chunk_tokens=3)) == whole
    texts, spent = run(SpeculativeRejection(n=5, alpha=0.5, chunk_tokens=3))
    assert texts != whole[0], "control"
    assert spent < 0.6 * whole[1]
