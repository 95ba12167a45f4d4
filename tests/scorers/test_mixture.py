"""Weighted sums of scores, and what may be added to a score: identities, each with a control."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import tiny
from w2s_chains import (
    CallableScorer,
    ChunkBeamSearch,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LoglikelihoodScorer,
    LogRatioScorer,
    MixtureScorer,
    SamplingParams,
)
from w2s_chains.errors import ConfigError, PromptError, ScorerError
from w2s_chains.scorers.adjustments import repeated_ngrams

PROMPTS = ["The movie", "電影很好看 😀 and", "x"]
BEAM = ChunkBeamSearch(width=2, successors=3, chunk_tokens=4)


def answers(
    proposer: HuggingFaceProposer, scorer: Any, prompts: Sequence[str] = PROMPTS, strategy=BEAM
) -> dict[str, tuple[str, Any]]:
    jobs = [
        Job(
            root=Hypothesis.root(prompt),
            strategy=strategy,
            proposer=proposer,
            scorer=scorer,
            sampling=SamplingParams(max_tokens=16),
            seed=len(prompt),
        )
        for prompt in prompts
    ]
    found = [one.future.result(60) for one in Engine().submit(jobs)]
    return {
        p: (a.text, pytest.approx(a.score, abs=1e-4)) for p, a in zip(prompts, found, strict=True)
    }


def texts() -> list[Hypothesis]:
    rng = random.Random(0)
    words = ["the", "film", "was"]
    found: list[Hypothesis] = []
    for prompt in PROMPTS:
        root = Hypothesis.root(prompt)
        for end in ("eos", "length", None):
            text = " " + " ".join(rng.choices(words, k=9))
            found.append(root.extend(text, finish_reason=end, n_tokens=rng.randint(2, 9)))
    return found


@pytest.fixture
def other_pair() -> GuidePair:
    base = tiny.llama(320, seed=6)
    tokenizer = tiny.byte_tokenizer()
    return GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer), HuggingFaceGuide(base, tokenizer)
    )


def test_one_part_of_weight_one_is_the_part(proposer, scorer, foreign_pair) -> None:
    for part in (LogRatioScorer(foreign_pair), LoglikelihoodScorer(proposer)):
        nodes = texts()
        assert MixtureScorer([(part, 1.0)]).score(nodes) == part.score(nodes)
    for part in (scorer, LoglikelihoodScorer(proposer)):
        mixture = MixtureScorer([(part, 1.0)])
        alone = answers(proposer, part)
        assert answers(proposer, mixture) == alone
        assert answers(proposer, MixtureScorer([(part, -1.0)])) != alone, "control"


def test_weights_add_up(proposer, scorer, other_pair) -> None:
    other, own = LogRatioScorer(other_pair), LoglikelihoodScorer(proposer)
    nodes = texts()
    columns = [part.score(nodes) for part in (scorer, other, own)]
    expected = [2.0 * a - 0.5 * b + 0.25 * c for a, b, c in zip(*columns, strict=True)]
    mixture = MixtureScorer([(scorer, 2.0), (other, -0.5), (own, 0.25)])
    assert mixture.score(nodes) == pytest.approx(expected, abs=1e-4)
    nested = MixtureScorer([(MixtureScorer([(scorer, 4.0), (other, -1.0)]), 0.5), (own, 0.25)])
    assert nested.score(nodes) == pytest.approx(expected, abs=1e-4)
    less = MixtureScorer([(scorer, 2.0), (other, -0.5), (own, 0.2)])
    assert less.score(nodes) != pytest.approx(expected, abs=1e-2), "control"


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=5))
def test_any_weights_add_up(parts: list[tuple[float, float]]) -> None:
    def constant(value: float) -> CallableScorer:
        return CallableScorer(lambda prompts, responses: [value] * len(prompts))

    mixture = MixtureScorer([(constant(value), weight) for value, weight in parts])
    [found] = mixture.score([Hypothesis.root("x")])
    assert found == pytest.approx(sum(v * w for v, w in parts), abs=1e-9)


def test_parts_that_share_weights_read_in_one_forward_pass(proposer: HuggingFaceProposer) -> None:
    def pairs() -> list[LogRatioScorer]:
        return [
            LogRatioScorer(GuidePair.from_prompts(proposer, f"{word} film: {{prompt}}"))
            for word in ("good", "short")
        ]

    def forwards(score: Any) -> int:
        proposer.lm.counters.forwards = 0
        score(texts())
        return proposer.lm.counters.forwards

    mixture = MixtureScorer([(part, 1.0) for part in pairs()])
    assert forwards(mixture.score) == 2, "the prompts, then the answers"
    assert forwards(lambda nodes: [part.score(nodes) for part in pairs()]) == 4, "control"
    nodes = texts()
    apart = [sum(scores) for scores in zip(*(p.score(nodes) for p in pairs()), strict=True)]
    assert mixture.score(nodes) == pytest.approx(apart, abs=1e-4)


def test_a_part_of_weight_zero_is_not_asked(scorer) -> None:
    def fails(prompts: Any, responses: Any) -> Any:
        raise AssertionError("it was asked")

    mixture = MixtureScorer([(scorer, 1.0), (CallableScorer(fails), 0.0)])
    assert mixture.score(texts()) == pytest.approx(scorer.score(texts()), abs=1e-4)
    with pytest.raises(AssertionError):  # control
        MixtureScorer([(scorer, 1.0), (CallableScorer(fails), 0.1)]).score(texts())


def test_a_negative_weight_steers_away(proposer, scorer) -> None:
    def value(weight: float) -> float:
        found = answers(proposer, MixtureScorer([(scorer, weight)]))
        return sum(score.expected for _, score in found.values()) / weight

    assert value(1.0) > 10
    assert value(-0.5) < -10


def test_shuffled_prompts_have_the_same_answers(proposer, scorer, foreign_pair) -> None:
    mixture = MixtureScorer(
        [(scorer, 1.0), (LogRatioScorer(foreign_pair), 0.5)],
        proposer=proposer, base_weight=0.2, repetition_penalty=0.5,
    )  # fmt: skip
    there = answers(proposer, mixture)
    assert answers(proposer, mixture, PROMPTS[::-1]) == there
    singles = {p: answers(proposer, mixture, [p])[p] for p in PROMPTS}
    assert singles == there
    assert len({text for text, _ in there.values()}) == len(PROMPTS), "control"


def test_a_guide_that_parts_share_reads_once(scorer, other_pair) -> None:
    shared = scorer.pair.untuned

    def tokens_read(second: GuidePair) -> int:
        shared.lm.counters.tokens_read = 0
        MixtureScorer([(scorer, 1.0), (LogRatioScorer(second), -1.0)]).score(texts())
        return shared.lm.counters.tokens_read

    alone = tokens_read(other_pair)
    assert alone > 50
    assert tokens_read(GuidePair(other_pair.tuned, shared)) == alone
    copy = HuggingFaceGuide(shared.lm.model, shared.tokenizer.hf_tokenizer)
    assert copy.lm.counters.tokens_read == 0
    MixtureScorer([(LogRatioScorer(GuidePair(other_pair.tuned, copy)), 1.0)]).score(texts())
    assert copy.lm.counters.tokens_read == alone, "control: it would be read again"


def test_equal_guides_score_zero_by_default(proposer, pair) -> None:
    equal = GuidePair(pair.tuned, pair.tuned)
    assert LogRatioScorer(equal).score(texts()) == [0.0] * len(texts())
    others: list[dict[str, Any]] = [
        {"base_weight": 0.5, "proposer": proposer}, {"repetition_penalty": 1.0},
    ]  # fmt: skip
    for options in others:
        assert any(LogRatioScorer(equal, **options).score(texts())), "control"
    assert LogRatioScorer(equal, per_token=True).score(texts()) == [0.0] * len(texts())


def test_options_are_the_formula(proposer, scorer) -> None:
    nodes = texts()
    base = LoglikelihoodScorer(proposer).score(nodes)
    repeated = [repeated_ngrams(h.response) for h in nodes]
    assert any(repeated)
    counts = [h.n_tokens + h.ended for h in nodes]
    rows = list(zip(scorer.score(nodes), base, repeated, counts, strict=True))
    options: dict[str, Any] = {"proposer": proposer, "base_weight": 0.3, "repetition_penalty": 2.0}
    total = LogRatioScorer(scorer.pair, **options)
    assert total.score(nodes) == pytest.approx(
        [a + 0.3 * b - 2.0 * r for a, b, r, _ in rows], abs=1e-4
    )
    mean = LogRatioScorer(scorer.pair, per_token=True, **options)
    expected = [(a + 0.3 * b - 2.0 * r) / n for a, b, r, n in rows]
    assert mean.score(nodes) == pytest.approx(expected, abs=1e-4)
    mixture = MixtureScorer([(scorer, 2.0)], **options)
    expected = [2 * a + 0.3 * b - 2.0 * r for a, b, r, _ in rows]
    assert mixture.score(nodes) == pytest.approx(expected, abs=1e-4)
    assert mixture.score(nodes) != pytest.approx(total.score(nodes), abs=1e-2), "control"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0), ("a b", 0), ("a b c", 0), ("a b c a b c", 1), ("a a a a", 1), ("a a a a a", 2),
        ("the end. The end. The end.", 1), ("x y z\n x  y z", 1), ("好 好 好 好", 1),
    ],
)  # fmt: skip
def test_repeated_sequences_of_three_words(text: str, count: int) -> None:
    assert repeated_ngrams(text) == count


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_repeated_is_all_minus_distinct(words: list[str]) -> None:
    grams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    assert repeated_ngrams(" ".join(words)) == len(grams) - len(set(grams))


def test_texts_without_a_count_have_no_mean(pair) -> None:
    scorer = LogRatioScorer(pair, per_token=True)
    with pytest.raises(ScorerError, match="' was' has no count of tokens"):
        scorer.score_texts(["The movie"], [" was"], [True])
    assert LogRatioScorer(pair).score_texts(["The movie"], [" was"], [True]), "control"


def test_wrong_input(proposer, scorer, pair) -> None:
    class Mute:
        def propose(self, requests: Any) -> Any: ...

    wrong: list[tuple[Any, Any, str]] = [
        ([], {}, "no parts"),
        ([("log_ratio", 1.0)], {}, "'log_ratio', which has no method score"),
        ([scorer], {}, r"LogRatioScorer object .*; give \(scorer, weight\)"),
        ([(scorer, "1")], {}, r"'1'\); give \(scorer, weight\)"),
        ([(scorer, float("nan"))], {}, "weight of a part of a mixture is nan"),
        ([(scorer, float("inf"))], {}, "weight of a part of a mixture is inf"),
        ([(scorer, 1.0)], {"base_weight": 1.0}, "base_weight is 1.0, but there is no proposer"),
        ([(scorer, 1.0)], {"base_weight": 1.0, "proposer": Mute()}, "the proposer Mute cannot"),
    ]
    for parts, options, told in wrong:
        with pytest.raises(ConfigError, match=told):
            MixtureScorer(parts, **options)
    for bad in (-1.0, float("inf")):
        with pytest.raises(ConfigError):
            MixtureScorer([(scorer, 1.0)], repetition_penalty=bad)
        with pytest.raises(ConfigError):
            LogRatioScorer(pair, repetition_penalty=bad)
    with pytest.raises(ConfigError, match="but there is no proposer"):
        LogRatioScorer(pair, base_weight=1.0)

    class Short:
        def score(self, hypotheses: Any) -> list[float]:
            return [1.0]

    with pytest.raises(ScorerError, match="Short in a mixture returned 1 scores for 9"):
        MixtureScorer([(Short(), 1.0)]).score(texts())  # pyright: ignore[reportArgumentType]


def test_a_prompt_that_a_part_cannot_read_is_refused(proposer, scorer) -> None:
    mixture = MixtureScorer([(LoglikelihoodScorer(proposer), 1.0), (scorer, 1.0)])
    job = Job(
        root=Hypothesis.root("x" * 600), strategy=BEAM, proposer=proposer, scorer=mixture,
        sampling=SamplingParams(max_tokens=4),
    )  # fmt: skip
    with pytest.raises(PromptError, match="512 positions"):
        job.check()
    tiny_context = HuggingFaceGuide(
        tiny.llama(320, max_position_embeddings=8), tiny.byte_tokenizer()
    )
    narrow = MixtureScorer([(LogRatioScorer(GuidePair(tiny_context, tiny_context)), 1.0)])
    with pytest.raises(PromptError, match="8 positions"):
        narrow.check(Hypothesis.root("The movie").prompt, SamplingParams(max_tokens=8))
