"""Token-level search: the softmax over candidates, by hand, by counting, and on tiny models."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
from scipy.stats import chisquare

from tests.helpers.llms import PROMPTS
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    StrategyError,
    TokenSearch,
)
from w2s_chains.core.sampling import random_stream
from w2s_chains.search import build_strategy, drawn
from w2s_chains.testing import drive

LETTERS = "abc"
CHANCES = (0.5, 0.3, 0.2)
VALUES = {"a": 0.0, "b": 1.0, "c": -0.5}


def letters(numbers: random.Random, tokens: int = 1) -> Any:
    """A proposer that draws letters by ``CHANCES``."""

    def propose(ask: Expand) -> list[Hypothesis]:
        assert ask.chunk_tokens == 1
        return [
            h.extend(
                numbers.choices(LETTERS, CHANCES)[0],
                (1,),
                finish_reason="length" if h.n_tokens + 1 == tokens else None,
            )
            for h in ask.hypotheses
            for _ in range(ask.successors)
        ]

    return propose


def value(h: Hypothesis) -> float:
    return sum(VALUES[letter] for letter in h.response)


def counted(strategy: TokenSearch, times: int) -> list[int]:
    """How often each letter is the answer."""
    numbers = random.Random(0)
    found = Counter(
        drive(strategy, letters(numbers), value, seed=seed).answer.response for seed in range(times)
    )
    return [found[letter] for letter in LETTERS]


def resampled(candidates: int, tau: float) -> list[float]:
    """The exact distribution of one letter, over all draws of the candidates."""
    total = dict.fromkeys(LETTERS, 0.0)
    for pool in itertools.product(range(len(LETTERS)), repeat=candidates):
        chance = math.prod(CHANCES[i] for i in pool)
        weights = [math.exp(VALUES[LETTERS[i]] / tau) for i in pool]
        for i, weight in zip(pool, weights, strict=True):
            total[LETTERS[i]] += chance * weight / sum(weights)
    return [total[letter] for letter in LETTERS]


@pytest.mark.parametrize(("candidates", "tau"), [(1, 0.5), (2, 0.5), (3, 0.5), (4, 1.0), (3, 5.0)])
def test_the_draw_has_the_exact_distribution(candidates: int, tau: float) -> None:
    times = 4000
    found = counted(TokenSearch(candidates=candidates, tau=tau), times)
    expected = [times * chance for chance in resampled(candidates, tau)]
    assert chisquare(found, expected).pvalue > 1e-3
    if candidates > 1:
        other = [times * chance for chance in resampled(candidates - 1, tau)]
        assert chisquare(found, other).pvalue < 1e-3 or tau > 1, "control"


def test_many_candidates_sample_the_tempered_distribution() -> None:
    """p(letter) * exp(value / tau), which is p_base * (p_tuned / p_untuned)^(1 / tau)."""
    tau, times = 0.7, 3000
    weights = [c * math.exp(VALUES[x] / tau) for c, x in zip(CHANCES, LETTERS, strict=True)]
    found = counted(TokenSearch(candidates=300, tau=tau), times)
    expected = [times * weight / sum(weights) for weight in weights]
    assert chisquare(found, expected).pvalue > 1e-3


@pytest.mark.parametrize(("distinct", "chance"), [(False, 0.75), (True, 0.5)])
def test_a_candidate_that_comes_again_has_another_chance(distinct: bool, chance: float) -> None:
    """But not without replacement, where it comes again because there are too few others."""
    asked: list[bool] = []

    def propose(ask: Expand) -> list[Hypothesis]:
        asked.append(ask.distinct)
        return [ask.hypotheses[0].extend(x, (1,), finish_reason="length") for x in "aaab"]

    strategy = TokenSearch(candidates=4, tau=1.0, distinct=distinct)
    found = [drive(strategy, propose, lambda h: 0.0, seed=i).answer.response for i in range(400)]
    assert set(asked) == {distinct}
    assert found.count("a") / 400 == pytest.approx(chance, abs=0.07)


def test_without_tau_the_best_candidate_stays() -> None:
    trace = drive(TokenSearch(candidates=20), letters(random.Random(0), tokens=6), value)
    assert trace.answer.response == "bbbbbb"
    assert trace.committed == ["b" * n for n in range(1, 7)]
    assert [(len(a.hypotheses), a.successors, a.chunk_tokens) for a in trace.expansions] == [
        (1, 20, 1)
    ] * 6


def test_the_draw_is_a_function_of_prompt_and_seed() -> None:
    strategy = TokenSearch(candidates=8, tau=2.0)

    def answer(prompt: str, seed: int) -> str:
        proposer = letters(random.Random(0), tokens=30)
        return drive(strategy, proposer, value, prompt, seed).answer.response

    assert answer("p", 1) == answer("p", 1)
    assert len({answer("p", 1), answer("p", 2), answer("q", 1)}) == 3


def test_infinite_weights() -> None:
    root = Hypothesis.root("")
    a, b, c = (root.extend(x) for x in LETTERS)
    numbers = random_stream(0, "x")
    low, high = float("-inf"), float("inf")
    assert {drawn([a, b], [0.0, low], numbers) for _ in range(50)} == {a}
    assert {drawn([a, b, c], [high, 5.0, high], numbers) for _ in range(50)} == {a, c}
    assert {drawn([a, b], [low, low], numbers) for _ in range(50)} == {a, b}
    assert {drawn([a, b], [1e5, 1e5 - 1e4], numbers) for _ in range(50)} == {a}


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"tau": -1.0}, {"tau": math.inf}, {"k": 3}])
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "token_search", **wrong})


def test_on_models_it_is_chunk_beam_of_one_token(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, max_tokens=12, seed=3)
    beam = llm.batch(PROMPTS, strategy=ChunkBeamSearch(width=1, successors=4, chunk_tokens=1))
    assert llm.batch(PROMPTS, strategy=TokenSearch(candidates=4)) == beam
    assert llm.batch(PROMPTS, strategy=TokenSearch(candidates=4, tau=1e-4)) == beam
    assert llm.batch(PROMPTS, strategy=TokenSearch(candidates=4, tau=50.0)) != beam, "control"


def test_on_models_the_large_one_reads_a_row_for_each_token(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=scorer, max_tokens=40, seed=0, strategy="token_search")
    before = proposer.lm.counters.tokens_read
    [[answer]] = llm.generate(["The film"]).generations
    info = answer.generation_info
    assert info is not None
    read = proposer.lm.counters.tokens_read - before
    assert info["read_tokens"] == info["rounds"] == info["completion_tokens"]
    assert read == info["prompt_tokens"] - 1 + info["read_tokens"]
    assert info["proposed_tokens"] > 6 * info["completion_tokens"]


def test_a_strategy_that_asks_for_something_else_is_told_what_there_is(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    class Odd(TokenSearch):
        def search(self, root: Hypothesis) -> Any:
            yield "more"

    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=Odd())
    with pytest.raises(StrategyError, match="Expands, Score, TokenRatios, Commit or Random"):
        llm.invoke("x")
