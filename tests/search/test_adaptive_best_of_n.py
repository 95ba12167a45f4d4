"""Best-of-N that stops early: its rule against integrals, its price, and best-of-N as a limit."""

from __future__ import annotations

import math
import random
import weakref
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from tests.helpers.llms import PROMPTS
from tests.helpers.streams import letters, value
from w2s_chains import (
    W2SLLM,
    AdaptiveBestOfN,
    BestOfN,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SearchStrategy,
)
from w2s_chains.core.asks import Score
from w2s_chains.search import build_strategy
from w2s_chains.search import kl_bounds as bounds
from w2s_chains.search.answers.adaptive_best_of_n import expected_gain
from w2s_chains.testing import drive


def numbered(ask: Expand) -> list[Hypothesis]:
    """Answers "0", "1", and so on."""
    [root] = ask.hypotheses
    numbers = range(ask.first, ask.first + ask.successors)
    return [root.extend(f"{i}", (1,), finish_reason="eos") for i in numbers]


def run(strategy: SearchStrategy, scores: list[float]) -> tuple[int, int]:
    """The answer's number, and how many were drawn."""
    trace = drive(strategy, numbered, lambda h: scores[int(h.response)])
    drawn = sum(ask.successors for ask in trace.expansions)
    firsts = [ask.first for ask in trace.expansions]
    assert firsts == sorted(set(firsts))
    assert trace.expansions[-1].first + trace.expansions[-1].successors == drawn
    return int(trace.answer.response), drawn


# The rule.


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30))
def test_the_gain_is_an_integral_over_the_fitted_normal(scores: list[float]) -> None:
    mean, spread, best = fmean(scores), stdev(scores), max(scores)
    if spread < 1e-3:
        return
    exact: Any = integrate.quad(
        lambda x: (x - best) * norm.pdf(x, mean, spread), best, max(best, mean + 12 * spread)
    )[0]
    assert expected_gain(scores) == pytest.approx(exact, abs=1e-6 * spread)


def test_the_gain_by_hand() -> None:
    # z = 1 / sqrt(2): spread * (pdf(z) - z * cdf(-z)), from a table.
    assert expected_gain([1.0, 3.0]) == pytest.approx(
        math.sqrt(2) * (0.3106966 - 0.7071068 * 0.2397501), abs=1e-6
    )
    assert expected_gain([2.0, 2.0, 2.0]) == 0.0
    assert expected_gain([0.0] * 1000 + [1e9]) >= 0.0, "rounding"
    assert expected_gain([]) == expected_gain([5.0]) == math.inf


def test_infinite_scores() -> None:
    low, high = -math.inf, math.inf
    assert expected_gain([1.0, high, 2.0]) == 0.0
    assert expected_gain([low, low, 1.0]) == math.inf
    assert expected_gain([1.0, 3.0, low, low]) == expected_gain([1.0, 3.0]) / 2
    for scores in ([low] * 8, [high] * 8, [low, 3.0, high, *[0.0] * 5], [low] * 7 + [1.0]):
        for gain in (0.0, 0.1):
            answer, drawn = run(AdaptiveBestOfN(n=8, wave=2, min_gain=gain), scores)
            assert scores[answer] == max(scores[:drawn])
            assert drawn == 8 or gain


@given(
    st.lists(st.floats(-10, 10), min_size=24, max_size=24),
    st.integers(1, 24),
    st.integers(1, 30),
    st.floats(0, 3),
)
def test_it_stops_after_the_first_wave_that_leaves_too_little_to_gain(
    scores: list[float], n: int, wave: int, min_gain: float
) -> None:
    answer, drawn = run(AdaptiveBestOfN(n=n, wave=wave, min_gain=min_gain), scores)
    ends = [min(end, n) for end in range(wave, n + wave, wave)]
    enough = [end for end in ends if expected_gain(scores[:end]) < min_gain]
    assert drawn == min([*enough, n])
    assert answer == scores.index(max(scores[:drawn])), "the first of the best"


def test_a_higher_price_never_draws_more() -> None:
    numbers = random.Random(0)
    for _ in range(100):
        scores = [numbers.gauss(0, 1) for _ in range(32)]
        drawn = [
            run(AdaptiveBestOfN(n=32, wave=2, min_gain=gain), scores)[1]
            for gain in (0.0, 0.01, 0.03, 0.1, 0.3, 10.0)
        ]
        assert drawn == sorted(drawn, reverse=True)
        assert (drawn[0], drawn[-1]) == (32, 2)


def test_it_is_worth_more_than_any_fixed_number() -> None:
    """Some prompts vary much, some little; a sample costs ``price``."""
    price, most = 0.1, 32
    numbers = random.Random(0)
    prompts = [
        [numbers.gauss(0, spread) for _ in range(most)] for _ in range(300) for spread in (0.1, 4)
    ]

    def net(strategy: SearchStrategy) -> float:
        outcomes = [(scores, *run(strategy, scores)) for scores in prompts]
        return fmean(scores[answer] - price * drawn for scores, answer, drawn in outcomes)

    adaptive = net(AdaptiveBestOfN(n=most, wave=4, min_gain=price))
    fixed = {n: net(BestOfN(n=n)) for n in (2, 4, 8, 12, 16, 32)}
    assert adaptive > max(fixed.values()) + 0.1
    assert net(AdaptiveBestOfN(n=most, wave=4, min_gain=0.0)) == fixed[most], "control"
    assert net(AdaptiveBestOfN(n=most, wave=4, min_gain=20 * price)) < adaptive - 0.1, "control"


# Best-of-N.


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 12), wave=st.integers(1, 14), seed=st.integers(0, 10_000))
def test_without_a_price_it_is_best_of_n(n: int, wave: int, seed: int) -> None:
    make = letters(seed, alphabet="ab", end=0.5)  # many answers are equal
    trace = drive(AdaptiveBestOfN(n=n, wave=wave, min_gain=0.0), make, value)
    assert trace.answer.identity == drive(BestOfN(n=n), make, value).answer.identity
    assert sum(ask.successors for ask in trace.expansions) == n
    assert all(ask.successors <= wave for ask in trace.expansions)
    assert {ask.chunk_tokens for ask in trace.expansions} == {None}
    tied = drive(AdaptiveBestOfN(n=n, wave=wave, min_gain=0.0), make, lambda h: 1.0)
    first = drive(BestOfN(n=n), make, lambda h: 1.0)
    assert tied.answer.identity == first.answer.identity


def test_with_a_price_it_is_not() -> None:
    """Control."""
    stops = [
        drive(AdaptiveBestOfN(n=16, min_gain=0.06), letters(seed), value) for seed in range(30)
    ]
    whole = [drive(BestOfN(n=16), letters(seed), value) for seed in range(30)]
    assert (
        sum(a.answer.identity != b.answer.identity for a, b in zip(stops, whole, strict=True)) > 5
    )
    assert {len(trace.expansions) for trace in stops} >= {1, 2}


def test_equal_answers_count_as_samples_and_are_scored_once() -> None:
    """As at temperature 0: one wave shows that there is nothing to gain."""

    def same(ask: Expand) -> list[Hypothesis]:
        return [ask.hypotheses[0].extend("x", (1,), finish_reason="eos")] * ask.successors

    trace = drive(AdaptiveBestOfN(n=16, wave=4), same, value)
    assert [ask.successors for ask in trace.expansions] == [4]
    assert [len(ask.hypotheses) for ask in trace.asks if isinstance(ask, Score)] == [1]
    free = drive(AdaptiveBestOfN(n=16, wave=4, min_gain=0.0), same, value)
    assert [ask.successors for ask in free.expansions] == [4] * 4, "control"


def test_only_the_best_answer_is_kept() -> None:
    alive: list[weakref.ref[Hypothesis]] = []
    counts: list[int] = []
    make = letters()
    search = AdaptiveBestOfN(n=20, wave=5, min_gain=0.0).search(Hypothesis.root(""))
    answer: Any = None
    try:
        while True:
            ask = search.send(answer)
            if isinstance(ask, Expand):
                counts.append(sum(ref() is not None for ref in alive))
                answer = make(ask)
                alive.extend(weakref.ref(child) for child in answer)
            else:
                assert isinstance(ask, Score)
                answer = [value(h) for h in ask.hypotheses]
            del ask
    except StopIteration:
        pass
    assert counts == [0, 1, 1, 1]
    assert len(alive) == 20, "control"


# Config.


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0},
        {"wave": 0},
        {"min_gain": -0.1},
        {"min_gain": math.inf},
        {"min_gain": math.nan},
        {"steering": math.inf},
        {"gain": 1},
    ],
)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "adaptive_best_of_n", **wrong})


def test_it_is_its_own_config() -> None:
    strategy = AdaptiveBestOfN(n=7, wave=3, min_gain=0.5, steering=0.25)
    assert build_strategy(strategy.model_dump()) == strategy
    assert (strategy.branches, strategy.token_steering, strategy.scores_partial) == (3, 0.25, False)
    assert AdaptiveBestOfN(n=2, wave=8).branches == 2
    assert strategy.kl_bound(1) == bounds.best_of(7)
    assert {ask.steering for ask in drive(strategy, letters(), value).expansions} == {0.25}


# Models.


def test_on_models_without_a_price_it_is_best_of_n(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, max_tokens=10, seed=3)

    def run(strategy: SearchStrategy) -> tuple[list[str], list[int]]:
        own = [answers[0] for answers in llm.generate(PROMPTS, strategy=strategy).generations]
        spent = [(answer.generation_info or {})["proposed_tokens"] for answer in own]
        return [answer.text for answer in own], spent

    whole = run(BestOfN(n=7))
    assert run(AdaptiveBestOfN(n=7, wave=3, min_gain=0.0)) == whole
    texts, spent = run(AdaptiveBestOfN(n=7, wave=3, min_gain=0.5))
    assert texts != whole[0], "control"
    assert all(a <= b for a, b in zip(spent, whole[1], strict=True))
    assert sum(spent) < 0.9 * sum(whole[1])
