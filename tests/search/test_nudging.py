"""Nudging: its asks by hand, its definition by plain forwards, and what limits of it equal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch

from tests.helpers.llms import PROMPTS, both_guides, forwards
from w2s_chains import (
    W2SLLM,
    CallableScorer,
    ChatW2S,
    ConfigError,
    Constraint,
    Expand,
    GuidePair,
    Guides,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Model,
    Nudging,
    Sampling,
)
from w2s_chains.core.asks import Until
from w2s_chains.search import build_strategy
from w2s_chains.testing import drive

LONGEST = 24


@pytest.fixture(params=["same", "foreign"])
def any_pair(request: pytest.FixtureRequest) -> GuidePair:
    """Guides with the proposer's vocabulary, and with another one."""
    return request.getfixturevalue("pair" if request.param == "same" else "foreign_pair")


# By hand.


def test_the_guide_writes_a_word_wherever_a_chunk_ends_early() -> None:
    def propose(ask: Expand) -> list[Hypothesis]:
        [h] = ask.hypotheses
        if ask.by_guide:
            return [h.extend("<word>", (1, 2))]
        chunk = {0: 16, 16: 3, 21: 0, 23: 5}[h.n_tokens]
        if not chunk:
            return [h]
        end = h.n_tokens == 23
        return [h.extend(f"[{chunk}]", (0,) * chunk, finish_reason="eos" if end else None)]

    trace = drive(Nudging(threshold=0.3), propose, lambda h: 0.0)
    assert trace.answer.response == "[16][3]<word><word>[5]"
    assert trace.committed == [
        "[16]",
        "[16][3]<word>",
        "[16][3]<word><word>",
        trace.answer.response,
    ]
    asks = [(a.by_guide, a.until, a.successors, a.chunk_tokens) for a in trace.expansions]
    base = (False, Until(top_probability=0.3, least=0), 1, 16)
    word = (True, Until(word=True), 1, 16)
    assert asks == [base, base, word, base, word, base]


# On models.


def likeliest(model: Any, ids: Sequence[int]) -> tuple[int, float]:
    with torch.inference_mode():
        table = model(torch.tensor([ids])).logits[0, -1].float().softmax(-1)
    best = table.max(0)
    return int(best.indices), float(best.values)


def by_definition(
    proposer: HuggingFaceProposer, guide: HuggingFaceGuide, prompt: str, threshold: float
) -> tuple[str, int]:
    """The greedy answer, word by word, and the number of words that the guide wrote."""
    base, other = proposer.tokenizer, guide.tokenizer
    root = Hypothesis.root(prompt).prompt
    same = base.vocabulary == other.vocabulary
    known = ""  # up to the last word of a guide of another vocabulary
    ids = list(base.prompt_ids(root))  # as the frozen model reads that
    own: list[int] = []  # what follows it, in tokens of the frozen model
    read: list[int] = []
    words = count = 0
    while count < LONGEST:
        token, top = likeliest(proposer.lm.model, [*ids, *own])
        if top >= threshold:
            if token in base.end_ids:
                break
            own.append(token)
            count += 1
            continue
        text = known + base.decode_after(ids, (), own)[0]
        read = list(other.prompt_ids(root) if same else other.ids_with_response(root, text))
        written = own if same else []
        start = len(other.decode_after(read, (), written)[0])
        word: list[int] = []
        ended = False
        while count < LONGEST and len(word) < 16:
            token, _ = likeliest(guide.lm.model, [*read, *written, *word])
            ended = token in other.end_ids
            before = other.decode_after(read, (), [*written, *word])[0]
            after = other.decode_after(read, (), [*written, *word, token])[0]
            if ended or (before[start:].strip() and after[len(before) :][:1].isspace()):
                break
            word.append(token)
            count += 1
        if same:
            own += word
        else:
            added, held = other.decode_after(read, (), word)
            if not ended and count < LONGEST:
                count -= min(len(held), len(word) - 1)
                word = word[: len(word) - len(held)]
            known, own, read = text + added, [], [*read, *word]
            ids = list(base.ids_with_response(root, known))
        words += 1
        if ended:
            break
    return known + base.decode_after(ids, (), own)[0], words


@pytest.mark.parametrize("threshold", [0.05, 0.08])
def test_the_answer_is_that_of_the_definition(
    proposer: HuggingFaceProposer, any_pair: GuidePair, threshold: float
) -> None:
    tuned, _ = both_guides(any_pair)
    llm = W2SLLM(proposer=proposer, guides=any_pair, scorer=None, max_tokens=LONGEST, temperature=0)
    prompts = PROMPTS[:4]
    found = llm.batch(prompts, strategy=Nudging(threshold=threshold))
    expected = [by_definition(proposer, tuned, prompt, threshold) for prompt in prompts]
    assert found == [text for text, _ in expected]
    words = [count for _, count in expected]
    assert sum(words) > 1
    for other in (0.0, 1.0):
        texts = [by_definition(proposer, tuned, prompt, other)[0] for prompt in prompts]
        assert found != texts, "control: another threshold"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_without_a_threshold_it_is_plain_sampling(
    proposer: HuggingFaceProposer, any_pair: GuidePair, temperature: float
) -> None:
    make = functools.partial(
        W2SLLM, proposer=proposer, guides=any_pair, scorer=None, max_tokens=40, seed=3,
        temperature=temperature,
    )  # fmt: skip
    sampled = make(strategy=Sampling()).batch(PROMPTS[:5])
    before = [guide.lm.counters.forwards for guide in both_guides(any_pair)]
    assert make(strategy=Nudging(threshold=0.0)).batch(PROMPTS[:5]) == sampled
    assert [guide.lm.counters.forwards for guide in both_guides(any_pair)] == before
    assert make(strategy=Nudging(threshold=0.2)).batch(PROMPTS[:5]) != sampled, "control"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_with_the_largest_threshold_it_is_the_guides_own_text(
    proposer: HuggingFaceProposer, pair: GuidePair, temperature: float
) -> None:
    """Word by word, what the guide writes in one piece."""
    tuned, untuned = both_guides(pair)
    llm = W2SLLM(
        proposer=proposer, guides=pair, scorer=None, strategy=Nudging(threshold=1.0),
        max_tokens=40, temperature=temperature, seed=2,
    )  # fmt: skip
    found = llm.batch(PROMPTS[:5])
    asks = [
        Expand(
            hypotheses=(own.root,), by_guide=True, guides=pair, sampling=own.sampling, seed=own.seed
        )
        for own in llm.jobs(PROMPTS[:5])
    ]
    pieces = [child.response for [child] in proposer.propose(asks)]
    assert found == pieces
    if not temperature:
        guide = HuggingFaceProposer(tuned.lm.model, tuned.tokenizer.hf_tokenizer)
        own = W2SLLM(proposer=guide, max_tokens=40, temperature=0, strategy=Sampling())
        assert found == own.batch(PROMPTS[:5])
    assert found != llm.batch(PROMPTS[:5], strategy=Nudging(threshold=0.08)), "control"
    assert untuned.lm.counters.tokens_read == 0, "the untuned guide takes no part"


def test_an_answer_does_not_depend_on_others(
    proposer: HuggingFaceProposer, any_pair: GuidePair
) -> None:
    llm = W2SLLM(
        proposer=proposer, guides=any_pair, strategy=Nudging(threshold=0.2), max_tokens=30, seed=5,
        stop=["e", " m"],
    )  # fmt: skip
    alone = [llm.invoke(prompt) for prompt in PROMPTS[:6]]
    assert llm.batch(PROMPTS[:6]) == alone
    assert ["".join(llm.stream(prompt)) for prompt in PROMPTS[:6]] == alone
    free = llm.model_copy(update={"stop": ()})
    assert [text[: len(own)] for text, own in zip(free.batch(PROMPTS[:6]), alone, strict=True)] == (
        alone
    )
    assert llm.model_copy(update={"seed": 6}).batch(PROMPTS[:6]) != alone, "control"


def test_costs(proposer: HuggingFaceProposer, any_pair: GuidePair) -> None:
    """Both models count what they read; the guide alone what it writes."""
    tuned, untuned = both_guides(any_pair)
    llm = W2SLLM(
        proposer=proposer, guides=any_pair, scorer=None, strategy=Nudging(threshold=0.2),
        max_tokens=30, seed=1,
    )  # fmt: skip
    proposer.lm.counters.tokens_read = tuned.lm.counters.tokens_read = 0
    [[answer]] = llm.generate([PROMPTS[3]]).generations
    info = answer.generation_info or {}
    assert info["kl"] is None
    assert info["guide_tokens"] == tuned.lm.counters.tokens_read
    assert info["prompt_tokens"] - 1 + info["read_tokens"] == proposer.lm.counters.tokens_read
    ratio = info["guide_tokens"] * tuned.flops_per_token
    ratio /= proposer.lm.counters.tokens_read * proposer.flops_per_token
    assert info["guide_flops_ratio"] == pytest.approx(ratio)
    assert untuned.lm.counters.forwards == 0
    assert 0 < info["proposed_tokens"] < info["completion_tokens"] + info["rounds"]
    scored = W2SLLM(
        proposer=proposer, guides=any_pair, strategy=Nudging(threshold=0.2), max_tokens=30, seed=1
    )
    assert scored.invoke(PROMPTS[3]) == answer.text
    assert untuned.lm.counters.forwards > 0, "control: the score of the answer reads both"


def test_a_chat_is_rendered_for_each_model(pair: GuidePair, proposer: HuggingFaceProposer) -> None:
    llm = ChatW2S(
        proposer=proposer, guides=pair, strategy=Nudging(threshold=0.3), max_tokens=12, seed=0
    )
    before = forwards(llm)
    assert llm.invoke("hello").content == llm.invoke("hello").content
    assert forwards(llm) > before


@pytest.mark.slow
def test_two_families_write_one_answer() -> None:
    llm = W2SLLM(
        proposer=Model("embedded:smollm2-135m-instruct", template="A movie review: {prompt}"),
        guides=Guides(tuned="embedded:reviews-tuned", untuned="embedded:reviews-untuned"),
        scorer=None,
        strategy=Nudging(),
        max_tokens=16,
        temperature=0,
    )
    prompts = ["The acting of this", "I watched this film because"]
    tuned = both_guides(cast(GuidePair, llm.guides))[0]
    base = cast(HuggingFaceProposer, llm.proposer)
    assert tuned.tokenizer.vocabulary != base.tokenizer.vocabulary
    found = llm.batch(prompts, strategy=Nudging(threshold=0.3))
    plain = llm.batch(prompts, strategy=Sampling())
    assert llm.batch(prompts, strategy=Nudging(threshold=0.0)) == plain != found
    guide = HuggingFaceProposer(tuned.lm.model, tuned.tokenizer.hf_tokenizer)
    own = W2SLLM(proposer=guide, max_tokens=16, temperature=0, strategy=Sampling()).batch(prompts)
    assert llm.batch(prompts, strategy=Nudging(threshold=1.0)) == own != found


# What is refused.


class Whole:
    def propose(self, requests: Any) -> Any:
        raise AssertionError


class Elsewhere:
    """Guides that are no local models."""

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        raise AssertionError


REFUSED: dict[str, tuple[Callable[[Any, Any], dict[str, Any]], str]] = {
    "a proposer that does not let it": (
        lambda proposer, pair: {"proposer": Whole(), "guides": pair},
        "lets the tuned guide write words, which the proposer Whole cannot",
    ),
    "no guides": (
        lambda proposer, pair: {"proposer": proposer, "guides": None},
        "only as a local model",
    ),
    "guides elsewhere": (
        lambda proposer, pair: {"proposer": proposer, "guides": Elsewhere()},
        "only as a local model",
    ),
    "a form": (
        lambda proposer, pair: {
            "proposer": proposer, "guides": pair, "constraint": Constraint.regex("[ab]+"),
        },
        "lets the tuned guide write words, which an answer that has to have a form",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_work_starts(
    proposer: HuggingFaceProposer, pair: GuidePair, name: str
) -> None:
    parts, message = REFUSED[name]
    scorer = CallableScorer(lambda prompts, responses: [0.0 for _ in responses])
    llm = W2SLLM(scorer=scorer, strategy=Nudging(), **parts(proposer, pair))
    with pytest.raises(ConfigError, match=message):
        llm.invoke("x")
    assert proposer.lm.counters.forwards == 0


@pytest.mark.parametrize(
    "wrong", [{"threshold": -0.1}, {"threshold": 1.1}, {"gamma": 0.3}], ids=str
)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "nudging", **wrong})


def test_it_is_its_own_config(scorer: LogRatioScorer) -> None:
    strategy = Nudging(threshold=0.25)
    assert build_strategy(strategy.model_dump()) == strategy
    assert strategy.needs == {"until", "by_guide"}
    assert strategy.kl_bound(3) is None
    assert not strategy.needs_scorer
