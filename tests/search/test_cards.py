"""Cascade reward sampling: acceptance by hand and by enumeration, its asks, and on models."""

from __future__ import annotations

import functools
import math
import random
import weakref
from collections import Counter
from typing import Any

import pytest
from scipy.stats import chisquare

from tests.helpers.llms import PROMPTS
from w2s_chains import (
    CARDS,
    W2SLLM,
    BestOfN,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
)
from w2s_chains.core.asks import RandomStream, Score, Until
from w2s_chains.core.sampling import random_stream
from w2s_chains.search import build_strategy
from w2s_chains.testing import drive

LETTERS, CHANCES = "abc", (0.6, 0.3, 0.1)
VALUES = {"a": 0.0, "b": 1.0, "c": 1.6}


def letters(numbers: random.Random, tokens: int = 1) -> Any:
    def propose(ask: Expand) -> list[Hypothesis]:
        full = ask.hypotheses[0].n_tokens + 1 == tokens
        return [
            ask.hypotheses[0].extend(letter, (1,), finish_reason="length" if full else None)
            for letter in numbers.choices(LETTERS, CHANCES, k=ask.successors)
        ]

    return propose


def numbered(tokens: int = 3) -> Any:
    """A child is one token, and its text is its number."""

    def propose(ask: Expand) -> list[Hypothesis]:
        [h] = ask.hypotheses
        full = h.n_tokens + 1 == tokens
        return [
            h.extend(f"<{i}>", (i,), finish_reason="length" if full else None)
            for i in range(ask.first, ask.first + ask.successors)
        ]

    return propose


def value(h: Hypothesis) -> float:
    return sum(VALUES[letter] for letter in h.response)


def one_letter(attempts: int, goal: float, beta: float) -> list[float]:
    """The exact distribution of the answer of one letter; the threshold is the goal."""
    accepted = [min(1.0, math.exp((VALUES[x] - goal) / beta)) for x in LETTERS]
    rejected = sum(p * (1 - a) for p, a in zip(CHANCES, accepted, strict=True))
    tries = sum(rejected**i for i in range(attempts))
    found = [p * a * tries for p, a in zip(CHANCES, accepted, strict=True)]
    # The best of the rejected ones: letters are in the order of their values.
    shares = [p * (1 - a) for p, a in zip(CHANCES, accepted, strict=True)]
    for i in range(3):
        found[i] += sum(shares[: i + 1]) ** attempts - sum(shares[:i]) ** attempts
    return found


@pytest.mark.parametrize("wave", [1, 3, 8])
@pytest.mark.parametrize(
    ("attempts", "goal", "beta"), [(1, 2.0, 0.7), (4, 2.0, 0.7), (8, 1.0, 0.5)]
)
def test_the_answer_has_the_exact_distribution(
    attempts: int, goal: float, beta: float, wave: int
) -> None:
    runs = 3000
    strategy = CARDS(goal=goal, goal_tokens=1, beta=beta, attempts=attempts, wave=wave)
    numbers = random.Random(attempts)
    found = Counter(
        drive(strategy, letters(numbers), value, seed=seed).answer.response for seed in range(runs)
    )
    counts = [found[x] for x in LETTERS]
    exact = one_letter(attempts, goal, beta)
    assert sum(exact) == pytest.approx(1.0)
    assert chisquare(counts, [runs * p for p in exact]).pvalue > 1e-3
    other = one_letter(attempts, goal, 3 * beta)
    if attempts > 1:
        assert chisquare(counts, [runs * p for p in other]).pvalue < 1e-3, "control: other beta"
    else:
        assert exact == pytest.approx(CHANCES), "the one segment is taken, whatever its score"


def test_many_attempts_sample_the_capped_target() -> None:
    """p(letter) * min(1, exp((value - goal) / beta)), as rejection sampling has it."""
    exact = one_letter(200, 2.0, 0.7)
    weights = [p * math.exp((VALUES[x] - 2.0) / 0.7) for p, x in zip(CHANCES, LETTERS, strict=True)]
    assert exact == pytest.approx([w / sum(weights) for w in weights], rel=1e-6)


def test_the_threshold_rises_with_the_length_and_then_stays() -> None:
    strategy = CARDS(goal=8.0, start=-2.0, goal_tokens=10)
    assert [strategy.threshold(n) for n in (0, 5, 10, 50)] == [-2.0, 3.0, 8.0, 8.0]
    assert CARDS(goal=-4.0, goal_tokens=4).threshold(2) == -2.0


def test_the_first_good_segment_is_taken_and_further_ones_are_new_children() -> None:
    strategy = CARDS(
        goal=3.0, goal_tokens=3, beta=1e-6, attempts=7, wave=3, min_tokens=2, chunk_tokens=5
    )

    def good(h: Hypothesis) -> float:
        """Number 4 is good after the root, number 1 after that; then none is, and 5 is the best."""
        return {"<4>": 1.0, "<4><1>": 2.5}.get(h.response, -1.0 + h.response.endswith("<5>"))

    trace = drive(strategy, numbered(), good)
    assert trace.answer.response == "<4><1><5>"
    assert trace.committed == ["<4>", "<4><1>", "<4><1><5>"]
    asked = [(a.hypotheses[0].response, a.first, a.successors) for a in trace.expansions]
    assert asked == [
        ("", 0, 3),
        ("", 3, 3),
        ("<4>", 0, 3),
        ("<4><1>", 0, 3),
        ("<4><1>", 3, 3),
        ("<4><1>", 6, 1),
    ]
    assert {(a.chunk_tokens, a.until) for a in trace.expansions} == {
        (5, Until(entropy=3.0, least=2))
    }


def test_a_score_at_the_threshold_is_always_accepted() -> None:
    class Lowest(random.Random):
        """Gives the number that is accepted last."""

        def random(self) -> float:
            return 0.0

    def answer(score: float) -> str:
        search = CARDS(goal=2.0, goal_tokens=1, attempts=2, wave=2).search(Hypothesis.root(""))
        assert isinstance(next(search), RandomStream)
        ask: Any = search.send(Lowest())
        search.send(numbered(tokens=1)(ask))
        return search.send([score, 9.0]).hypothesis.response  # pyright: ignore[reportAttributeAccessIssue]

    assert answer(2.0) == "<0>"
    assert answer(1.99) == "<1>", "control"


def test_a_wave_changes_cost_and_not_the_answer() -> None:
    def of(h: Hypothesis) -> float:
        return random.Random(h.response).gauss(0.0, 2.0)

    def run(wave: int, seed: int) -> tuple[str, int]:
        strategy = CARDS(goal=2.0, goal_tokens=4, beta=0.5, attempts=9, wave=wave)
        trace = drive(strategy, numbered(tokens=6), of, seed=seed)
        return trace.answer.response, sum(a.successors for a in trace.expansions)

    found = [[run(wave, seed) for wave in (1, 2, 5, 9, 40)] for seed in range(20)]
    assert all(len({text for text, _ in own}) == 1 for own in found)
    assert len({own[0][0] for own in found}) > 5, "control: seeds differ"
    assert sum(own[0][1] for own in found) < sum(own[3][1] for own in found)
    assert CARDS(attempts=9, wave=40).branches == 9


def test_infinite_scores_end_too() -> None:
    strategy = CARDS(attempts=3, wave=2)
    assert drive(strategy, numbered(), lambda h: -math.inf).answer.response == "<0><0><0>"
    assert drive(strategy, numbered(), lambda h: math.inf).answer.response == "<0><0><0>"


def test_rejected_segments_are_freed() -> None:
    alive: list[weakref.ref[Hypothesis]] = []
    counts: list[int] = []
    root = Hypothesis.root("")
    search = CARDS(attempts=12, wave=4, goal=100.0, goal_tokens=1).search(root)
    stream = random_stream(0, root.prompt)
    propose = numbered(tokens=5)
    answer: object = None
    try:
        while True:
            ask: Any = search.send(answer)
            if isinstance(ask, Expand):
                counts.append(sum(ref() is not None for ref in alive))
                answer = children = propose(ask)
                alive += [weakref.ref(c) for c in children]
                del children
            elif isinstance(ask, Score):
                answer = [0.0 for _ in ask.hypotheses]
            else:
                answer = stream if isinstance(ask, RandomStream) else None
            del ask
    except StopIteration:
        pass
    assert len(alive) == 5 * 12
    # The path, the best so far; and the wave that this loop itself holds while it asks.
    assert max(counts) <= 5 + 1


def test_its_bound_counts_every_attempt() -> None:
    strategy = CARDS(attempts=6, wave=2)
    assert strategy.kl_bound(3) == pytest.approx(3 * BestOfN(n=6).kl_bound(1))


WRONG = [
    {"goal": math.inf},
    {"beta": 0.0},
    {"goal_tokens": 0},
    {"entropy": -1.0},
    {"attempts": 0},
    {"wave": 0},
    {"min_tokens": 0},
    {"chunk_tokens": None},
    {"r_star": 3},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "cards", **wrong})


def test_it_is_its_own_config() -> None:
    strategy = CARDS(goal=-3, start=-5, goal_tokens=9, beta=2, entropy=1, attempts=3, wave=1)
    assert build_strategy(strategy.model_dump()) == strategy
    assert strategy.needs == {"until"}


def test_segments_have_a_least_number_of_tokens(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    """So a model that is uncertain of every token is not asked anew for each of them."""
    llm = W2SLLM(proposer=proposer, scorer=scorer, max_tokens=24, seed=1)
    rounds: list[int] = []
    for least in (1, 4, 8):
        easy = CARDS(goal=-1e6, start=-1e6, entropy=0.0, min_tokens=least)
        [[answer]] = llm.generate(["x"], strategy=easy).generations
        info = answer.generation_info or {}
        assert info["finish_reason"] == "length"
        rounds.append(info["rounds"])
    assert rounds == [24, 6, 3]


def test_on_models(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> None:
    make = functools.partial(W2SLLM, proposer=proposer, scorer=scorer, max_tokens=12, seed=3)
    base: dict[str, Any] = {
        "entropy": 4.5, "min_tokens": 1, "chunk_tokens": 6, "goal_tokens": 12,
    }  # fmt: skip
    sampled = make(strategy=Sampling()).batch(PROMPTS[:6])
    easy = CARDS(goal=-1e6, start=-1e6, **base)
    assert make(strategy=easy).batch(PROMPTS[:6]) == sampled
    hard = [
        make(strategy=CARDS(goal=5.0, attempts=6, wave=wave, **base)).batch(PROMPTS[:6])
        for wave in (1, 4, 6)
    ]
    assert hard[0] == hard[1] == hard[2]
    assert hard[0] != sampled, "control"


def test_a_proposer_that_cannot_cut_chunks_is_refused(scorer: LogRatioScorer) -> None:
    class Whole:
        def propose(self, requests: Any) -> Any:
            raise AssertionError

    llm = W2SLLM(proposer=Whole(), scorer=scorer, strategy=CARDS())
    with pytest.raises(ConfigError, match="ends chunks at a place in the text"):
        llm.invoke("x")
