"""Particle filter: the estimate of Z and the target by enumeration, its asks by hand, on models."""

from __future__ import annotations

import functools
import math
import random
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from scipy.stats import chisquare

from tests.helpers.llms import PROMPTS
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    ParticleFilter,
    Sampling,
)
from w2s_chains.core.asks import Ask, Expands, RandomStream, Score
from w2s_chains.core.sampling import random_stream
from w2s_chains.search import build_strategy
from w2s_chains.search.base import relative
from w2s_chains.search.steps import particle_filter
from w2s_chains.search.steps.particle_filter import (
    Particles,
    effective_size,
    log_mean,
    systematic,
)
from w2s_chains.testing import Driven, drive

LETTERS, CHANCES, END, LENGTH = "ab", (0.7, 0.3), 0.25, 3
TAU = 0.8


def letters(numbers: random.Random, end: float = END, length: int = LENGTH) -> Any:
    """A proposer of one letter a chunk; with chance ``end`` the answer ends instead."""

    def propose(ask: Expand) -> list[Hypothesis]:
        assert ask.chunk_tokens == 1
        return [grown(h) for h in ask.hypotheses for _ in range(ask.successors)]

    def grown(h: Hypothesis) -> Hypothesis:
        if numbers.random() < end:
            return h.extend("", (), finish_reason="eos")
        full = h.n_tokens + 1 == length
        letter = numbers.choices(LETTERS, CHANCES)[0]
        return h.extend(letter, (1,), finish_reason="length" if full else None)

    return propose


def answers() -> dict[str, float]:
    """All answers and their chances."""
    found: dict[str, float] = {}

    def go(text: str, chance: float) -> None:
        if len(text) == LENGTH:
            found[text] = chance
            return
        found[text] = chance * END
        for letter, own in zip(LETTERS, CHANCES, strict=True):
            go(text + letter, chance * (1 - END) * own)

    go("", 1.0)
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def of_text(text: str, ended: bool) -> float:
    """A score that first misleads: many a's are bad at the end, and good before."""
    done = ended or len(text) == LENGTH
    return text.count("b") * 0.9 - text.count("a") * 0.4 if done else text.count("a") * 0.3


def value(h: Hypothesis) -> float:
    return of_text(h.response, h.ended)


def target() -> tuple[dict[str, float], float]:
    """The target over all answers, and Z."""
    weights = {t: chance * math.exp(of_text(t, True) / TAU) for t, chance in answers().items()}
    z = sum(weights.values())
    return {text: weight / z for text, weight in weights.items()}, z


class Seen(ParticleFilter):
    """Keeps the last particles of every run."""

    def sample(self, root: Hypothesis) -> Generator[Ask, Any, Particles]:
        found = yield from super().sample(root)
        SEEN.append(found)
        return found


SEEN: list[Particles] = []


def errors(logs: Sequence[float], truth: float) -> float:
    """How many standard errors the mean of exp(logs) is from the truth."""
    values = [math.exp(x) for x in logs]
    mean = sum(values) / len(values)
    variance = sum((x - mean) ** 2 for x in values) / (len(values) - 1)
    return abs(mean - truth) / math.sqrt(variance / len(values))


def estimated(particles: int, resample_below: float, runs: int = 3000) -> tuple[float, float]:
    """Standard errors between the estimates of Z and Z, and the same of a biased variant."""
    SEEN.clear()
    strategy = Seen(particles=particles, chunk_tokens=1, tau=TAU, resample_below=resample_below)
    numbers = random.Random(particles)
    for seed in range(runs):
        drive(strategy, letters(numbers), value, seed=seed)
    _, z = target()
    last = [log_mean(found.log_weights) for found in SEEN]
    return errors([found.log_normaliser for found in SEEN], z), errors(last, z)


@pytest.mark.parametrize(("particles", "below"), [(1, 0.5), (2, 1.0), (4, 0.0), (5, 0.7), (4, 1.0)])
def test_the_estimate_of_z_is_unbiased(particles: int, below: float) -> None:
    error, since_resampling = estimated(particles, below)
    assert error < 4
    if particles > 1 and below == 1.0:
        assert since_resampling > 4, "control: without the weights before the last resampling"


def test_the_control_other_resampling_is_biased(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the best half, as a beam does, and thus more copies than the weights allow."""

    def best(weights: Sequence[float], offset: float) -> list[int]:
        ranked = sorted(range(len(weights)), key=lambda i: -weights[i])
        return sorted(2 * ranked[: len(weights) // 2])

    monkeypatch.setattr(particle_filter, "systematic", best)
    error, _ = estimated(4, 1.0)
    assert error > 4


def counted(particles: int, runs: int) -> dict[str, int]:
    numbers = random.Random(1)
    strategy = ParticleFilter(
        particles=particles, chunk_tokens=1, tau=TAU, resample_below=0.8, pick="drawn"
    )
    found = Counter(
        drive(strategy, letters(numbers), value, seed=seed).answer.response for seed in range(runs)
    )
    return {text: found[text] for text in answers()}


def test_many_particles_sample_the_target() -> None:
    runs = 900
    found = counted(60, runs)
    wanted, _ = target()
    assert chisquare(list(found.values()), [runs * p for p in wanted.values()]).pvalue > 1e-3
    base = chisquare(list(found.values()), [runs * p for p in answers().values()])
    assert base.pvalue < 1e-9, "control: it is not what the frozen model samples"
    few = list(counted(1, runs).values())
    assert chisquare(few, [runs * p for p in answers().values()]).pvalue > 1e-3
    assert chisquare(few, [runs * p for p in wanted.values()]).pvalue < 1e-9, "control"


def test_the_best_of_the_last_particles_is_returned() -> None:
    def lags(pick: str) -> list[float]:
        """How much worse the answer is than the best particle, in some runs."""
        numbers = random.Random(2)
        strategy = Seen.model_validate({"particles": 9, "chunk_tokens": 1, "pick": pick})
        found: list[float] = []
        for seed in range(30):
            trace = drive(strategy, letters(numbers), value, seed=seed)
            assert trace.answer in SEEN[-1].answers
            found.append(max(SEEN[-1].scores) - value(trace.answer))
        return found

    assert set(lags("best")) == {0.0}
    assert max(lags("drawn")) > 0, "control"


def test_systematic_copies_are_as_many_as_the_weights_say() -> None:
    rng = random.Random(0)
    for _ in range(300):
        weights = [rng.random() ** 4 for _ in range(rng.randint(1, 9))]
        count, total = len(weights), sum(weights)
        kept = systematic(weights, rng.random())
        assert kept == sorted(kept)
        assert len(kept) == count
        for i, weight in enumerate(weights):
            share = weight * count / total
            assert math.floor(share - 1e-9) <= kept.count(i) <= math.ceil(share + 1e-9)
    points = 1000
    weights = [0.1, 0.0, 0.65, 0.25]
    copies = Counter(i for u in range(points) for i in systematic(weights, (u + 0.5) / points))
    assert [copies[i] / points for i in range(4)] == pytest.approx([0.4, 0.0, 2.6, 1.0], abs=0.01)
    assert systematic([1.0] * 6, 0.0) == systematic([1.0] * 6, 0.999999) == list(range(6))
    assert len(systematic([0.1] * 6, 0.0)) == 6, "rounding reaches a seventh point"


def test_weights_by_hand() -> None:
    low, high = -math.inf, math.inf
    assert relative([0.0, math.log(0.5), low]) == pytest.approx([1.0, 0.5, 0.0])
    assert relative([low, low]) == [1.0, 1.0]
    assert relative([high, 3.0, high]) == [1.0, 0.0, 1.0]
    assert effective_size([1.0, 1.0, 1.0]) == pytest.approx(3)
    assert effective_size([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert effective_size([1.0, 0.5]) == pytest.approx(1.8)
    assert log_mean([math.log(1.0), math.log(3.0)]) == pytest.approx(math.log(2))
    assert log_mean([1e5, 1e5]) == pytest.approx(1e5)
    assert (log_mean([low, low]), log_mean([low, high])) == (low, high)


def by_hand(strategy: ParticleFilter, of: Callable[[Hypothesis], float], seed: int = 0) -> Driven:
    """Every child's letter is its number; answers end after three."""

    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend(str(i), (i,), finish_reason="length" if h.n_tokens == 2 else None)
            for h in ask.hypotheses
            for i in range(ask.first, ask.first + ask.successors)
        ]

    return drive(strategy, propose, of, seed=seed)


def test_normaliser_and_weights_by_hand() -> None:
    """Both steps resample; the last weights are those of the last step, over tau."""
    scores = {"0": 2.0, "1": 0.0, "00": 2.0, "01": 8.0}

    def of(h: Hypothesis) -> float:
        return scores.get(h.response[:2], 0.0) + (h.n_tokens == 3) * float(h.response[-1] == "1")

    strategy = Seen(particles=2, chunk_tokens=1, tau=2.0, resample_below=1.0)
    by_hand(strategy, of, seed=1)
    found = SEEN[-1]
    assert {h.response[:2] for h in found.answers} == {"01"}, "drawn twice, by this seed"
    assert [h.response[2] for h in found.answers] == ["0", "1"]
    assert found.log_weights == (0.0, 0.5)
    means = [(math.exp(1) + 1) / 2, (1 + math.exp(3)) / 2, (1 + math.exp(0.5)) / 2]
    assert found.log_normaliser == pytest.approx(sum(map(math.log, means)))


def test_no_weights_are_left_where_only_finished_answers_are_copied() -> None:
    def propose(ask: Expand) -> list[Hypothesis]:
        ends = ("eos", None, None)
        return [ask.hypotheses[0].extend("x", (1,), finish_reason=reason) for reason in ends]

    strategy = Seen(particles=3, chunk_tokens=1, resample_below=1.0)
    trace = drive(strategy, propose, lambda h: 50.0 * h.finished)
    assert len(trace.expansions) == 1
    assert SEEN[-1].log_weights == (0.0, 0.0, 0.0)
    assert SEEN[-1].log_normaliser == pytest.approx(50.0 - math.log(3))


def test_a_share_that_is_reached_does_not_resample() -> None:
    def one(h: Hypothesis) -> float:
        return 0.0 if h.response.startswith("2") else -math.inf

    def successors(below: float) -> list[int]:
        strategy = ParticleFilter(particles=4, chunk_tokens=1, resample_below=below)
        return [ask.successors for ask in by_hand(strategy, one).expansions]

    assert successors(0.25) == [4, 1, 1], "the effective size is 1 of 4"
    assert successors(0.26) == [4, 4, 1], "control"


def test_copies_get_different_children_and_no_node_is_expanded_twice() -> None:
    def favourite(h: Hypothesis) -> float:
        return {"0": 100.0, "1": 99.3}.get(h.response[0], 0.0)

    strategy = ParticleFilter(particles=6, chunk_tokens=1, resample_below=1.0)
    trace = by_hand(strategy, favourite)
    rounds = [ask.asks for ask in trace.asks if isinstance(ask, Expands)]
    assert [[(len(a.hypotheses), a.successors) for a in asks] for asks in rounds] == [
        [(1, 6)],
        [(1, 2), (1, 4)],
        [(6, 1)],
    ]
    assert [[h.response for a in asks for h in a.hypotheses] for asks in rounds[1:]] == [
        ["1", "0"],
        ["00", "01", "02", "03", "10", "11"],
    ]
    expanded = [h for ask in trace.expansions for h in ask.hypotheses]
    assert len(set(expanded)) == len(expanded)
    assert all(ask.first == 0 for ask in trace.expansions)


def test_a_lonely_ancestor_is_committed_and_equal_weights_do_not_resample() -> None:
    strategy = ParticleFilter(particles=4, chunk_tokens=1, resample_below=0.9)
    one = by_hand(strategy, lambda h: 1000.0 * h.response.startswith("2"))
    assert one.committed == ["2", "2", "2"]
    assert one.answer.response.startswith("2")
    even = by_hand(strategy, lambda h: float(h.n_tokens))
    assert even.committed == ["", "", ""], "control"
    assert [a.successors for a in even.expansions] == [4, 1, 1]


def test_finished_answers_are_copied_and_never_expanded() -> None:
    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend(str(i), (1,), finish_reason="eos" if i == 0 or h.n_tokens == 3 else None)
            for h in ask.hypotheses
            for i in range(ask.successors)
        ]

    strategy = Seen(particles=4, chunk_tokens=1, resample_below=1.0)
    trace = drive(strategy, propose, lambda h: math.log(3) if h.ended else 0.0)
    assert [h.finished for a in trace.expansions for h in a.hypotheses].count(True) == 0
    texts = [h.response for h in SEEN[-1].answers]
    assert texts.count("0") == 2, "weights 3 to 1 to 1 to 1 make two copies of four"
    assert SEEN[-1].answers[0] is SEEN[-1].answers[1]
    # Mean weight (3 + 1 + 1 + 1) / 4, then those that ended keep theirs and others ended, too.
    assert SEEN[-1].log_normaliser >= math.log(1.5)


def test_infinite_scores() -> None:
    strategy = ParticleFilter(particles=4, chunk_tokens=1, resample_below=1.0, pick="drawn")
    worst = by_hand(strategy, lambda h: -math.inf)
    assert worst.answer.finished
    spared = by_hand(strategy, lambda h: 0.0 if h.response.startswith("3") else -math.inf)
    assert spared.answer.response.startswith("3")
    best = by_hand(strategy, lambda h: math.inf if h.response.startswith("3") else 0.0)
    assert best.answer.response.startswith("3")
    fallen = by_hand(
        strategy, lambda h: math.inf if h.n_tokens < 2 else float(h.response[1] == "1")
    )
    assert fallen.answer.finished


def test_without_resampling_the_best_is_best_of_n() -> None:
    """Also in one chunk, whatever the share."""

    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend(f"{i}", (1,), finish_reason="length")
            for h in ask.hypotheses
            for i in range(ask.successors)
        ]

    def of(h: Hypothesis) -> float:
        return random.Random(h.response).random()

    for strategy in (
        ParticleFilter(particles=7, chunk_tokens=None),
        ParticleFilter(particles=7, resample_below=0.0),
    ):
        trace = drive(strategy, propose, of)
        assert trace.answer.response == drive(BestOfN(n=7), propose, of).answer.response
        assert strategy.kl_bound(1) == BestOfN(n=7).kl_bound(1)
    assert not ParticleFilter(chunk_tokens=None).scores_partial
    assert ParticleFilter(particles=7).kl_bound(3) == pytest.approx(3 * math.log(7))


def test_dropped_particles_are_freed_before_the_next_step() -> None:
    alive: list[weakref.ref[Hypothesis]] = []
    counts: list[int] = []
    numbers = random.Random(0)
    propose = letters(numbers, end=0.0, length=30)
    root = Hypothesis.root("")
    search = ParticleFilter(particles=16, chunk_tokens=1, tau=0.2, resample_below=0.9).search(root)
    stream = random_stream(0, root.prompt)
    answer: object = None
    try:
        while True:
            ask: Any = search.send(answer)
            if isinstance(ask, Expands):
                counts.append(sum(ref() is not None for ref in alive))
                answer = [propose(own) for own in ask.asks]
                alive += [weakref.ref(c) for children in answer for c in children]
            elif isinstance(ask, Score):
                answer = [3.0 * h.response.count("b") for h in ask.hypotheses]
            else:
                answer = stream if isinstance(ask, RandomStream) else None
            del ask
    except StopIteration:
        pass
    assert len(alive) == 16 * 30
    assert max(counts) < 0.6 * len(alive)
    alive_now = sum(ref() is not None for ref in alive)
    assert alive_now < 16 * 30 / 2


WRONG = [
    {"particles": 0},
    {"tau": 0.0},
    {"tau": math.inf},
    {"resample_below": 1.5},
    {"pick": "worst"},
    {"chunk_tokens": 0},
    {"k": 3},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "particle_filter", **wrong})


def test_it_is_its_own_config() -> None:
    strategy = ParticleFilter(particles=3, chunk_tokens=None, tau=2, resample_below=1, pick="drawn")
    assert build_strategy(strategy.model_dump()) == strategy
    assert strategy.branches == 3


def test_on_models(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> None:
    make = functools.partial(W2SLLM, proposer=proposer, scorer=scorer, max_tokens=12, seed=3)
    sampled = make(strategy=Sampling()).batch(PROMPTS[:6])
    one = ParticleFilter(particles=1, chunk_tokens=3, resample_below=1.0)
    assert make(strategy=one).batch(PROMPTS[:6]) == sampled
    few = ParticleFilter(particles=5, chunk_tokens=3, tau=0.3, resample_below=1.0)
    assert make(strategy=few).batch(PROMPTS[:6]) != sampled, "control"
    best = make(strategy=ParticleFilter(particles=5, resample_below=0.0, chunk_tokens=3))
    assert best.batch(PROMPTS[:6]) == make(strategy=BestOfN(n=5)).batch(PROMPTS[:6])
