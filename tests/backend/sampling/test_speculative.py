"""Drafts: the same distribution as steering token by token, in fewer passes of the large model."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, cast

import pytest
import torch
from scipy.stats import chisquare

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    ConfigError,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    ProposerError,
    SamplingParams,
)
from w2s_chains.backend.sampling import speculative
from w2s_chains.core.asks import Expand
from w2s_chains.core.sampling import Constraint

PROMPT = "It was"


def log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def steered(proposer: HuggingFaceProposer, pair: GuidePair, ids: list[int]) -> torch.Tensor:
    """Emulated fine-tuning's distribution by its definition, of the three likeliest tokens."""
    tuned, untuned = (cast(HuggingFaceGuide, guide) for guide in (pair.tuned, pair.untuned))
    base, own, other = (log_probabilities(m.lm.model, ids) for m in (proposer, tuned, untuned))
    logits = (base + own - other) / 0.8
    least = logits.topk(3).values[-1]
    return logits.masked_fill(logits < least, float("-inf")).softmax(-1)


def request(pair: GuidePair, hypotheses: tuple[Hypothesis, ...], **changes: Any) -> Expand:
    sampling = SamplingParams(max_tokens=3, temperature=0.8, top_k=3)
    fields: dict[str, Any] = {
        "chunk_tokens": 3, "steering": 1.0, "drafts": True, "guides": pair, "sampling": sampling,
    }  # fmt: skip
    return Expand(hypotheses=hypotheses, **{**fields, **changes})


def answers(proposer: HuggingFaceProposer, pair: GuidePair, count: int, **changes: Any) -> Counter:
    """Tokens of many answers of three tokens."""
    [found] = proposer.propose(
        [request(pair, (Hypothesis.root(PROMPT),), successors=count, **changes)]
    )
    done: list[Hypothesis] = []
    while found:
        done += [h for h in found if h.finished]
        growing = tuple(h for h in found if not h.finished)
        found = proposer.propose([request(pair, growing, **changes)])[0] if growing else []
    assert len(done) == count
    return Counter(h.response_ids for h in done)


def p_value(proposer: HuggingFaceProposer, pair: GuidePair, found: Counter) -> float:
    """Chi-squared of whole answers against the product of the exact distributions."""
    prompt = list(proposer.tokenizer.prompt_ids(Hypothesis.root(PROMPT).prompt))
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        expected = {
            (*ids, token): p * q
            for ids, p in expected.items()
            for token, q in enumerate(steered(proposer, pair, [*prompt, *ids]).tolist())
            if q > 0
        }
    if not set(found) <= set(expected):
        return 0.0
    count = found.total()
    large = {ids: p for ids, p in expected.items() if p * count >= 5}
    seen = [found[ids] for ids in large] + [count - sum(found[ids] for ids in large)]
    wanted = [p * count for p in large.values()] + [count * (1 - sum(large.values()))]
    if wanted[-1] < 5:
        seen, wanted = seen[:-1], wanted[:-1]
        wanted = [w * sum(seen) / sum(wanted) for w in wanted]
    return float(chisquare(seen, wanted).pvalue)


@pytest.fixture
def proposer() -> HuggingFaceProposer:
    """A relative of the guides, so that some drafts fit and others do not."""
    return HuggingFaceProposer(tiny.noisy(tiny.llama(320, seed=1), seed=8), tiny.byte_tokenizer())


@pytest.fixture
def endless(proposer: HuggingFaceProposer) -> HuggingFaceProposer:
    proposer.tokenizer.end_ids = ()
    return proposer


def test_answers_have_the_distribution_of_emulated_fine_tuning(
    endless: HuggingFaceProposer, pair: GuidePair
) -> None:
    found = answers(endless, pair, 1500)
    assert len(found) > 5
    assert p_value(endless, pair, found) > 0.001
    assert p_value(endless, pair, answers(endless, pair, 1500, drafts=False)) > 0.001


def test_the_draft_alone_has_another_distribution(
    endless: HuggingFaceProposer, pair: GuidePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: whoever accepts every draft answers like the tuned guide."""
    monkeypatch.setattr(
        speculative, "_log_uniform", lambda draws, step, device: torch.full((len(draws),), -1e9)
    )
    assert p_value(endless, pair, answers(endless, pair, 1000)) < 1e-6


def test_greedy_answers_are_the_same(endless: HuggingFaceProposer, pair: GuidePair) -> None:
    texts = {
        W2SLLM(
            proposer=endless, guides=pair, max_tokens=20, temperature=0,
            strategy=EmulatedFineTuning(beta=1.0, draft_tokens=drafts),
        ).invoke(PROMPT)
        for drafts in (0, 1, 3, 7)
    }  # fmt: skip
    assert len(texts) == 1


def test_an_answer_does_not_depend_on_others(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    llm = W2SLLM(
        proposer=proposer, guides=pair, max_tokens=13,
        strategy=EmulatedFineTuning(draft_tokens=3), seed=5,
    )  # fmt: skip
    prompts = [PROMPT, "x", "a much longer prompt than the others are", PROMPT + " not"]
    alone = [llm.invoke(prompt) for prompt in prompts]
    assert llm.batch(prompts) == alone
    assert llm.batch(prompts[::-1]) == alone[::-1]
    assert "".join(llm.stream(PROMPT)) == alone[0]
    assert llm.model_copy(update={"seed": 6}).batch(prompts) != alone, "control"


@pytest.mark.parametrize("same", [True, False])
def test_drafts_that_fit_are_kept_whole(proposer: HuggingFaceProposer, same: bool) -> None:
    tuned = proposer.lm.model if same else tiny.noisy(proposer.lm.model)
    tokenizer = tiny.byte_tokenizer()
    pair = GuidePair(
        HuggingFaceGuide(tuned, tokenizer), HuggingFaceGuide(proposer.lm.model, tokenizer)
    )
    proposer.tokenizer.end_ids = ()
    root = Hypothesis.root(PROMPT)
    sampling = SamplingParams(max_tokens=30)
    [children] = proposer.propose(
        [request(pair, (root,), successors=50, chunk_tokens=6, sampling=sampling, steering=0.001)]
    )
    lengths = [len(child.token_ids or ()) for child in children]
    assert min(lengths) >= 1
    # With equal models and (nearly) no weight, what is sampled is what the guide drafts.
    assert (min(lengths) == 6) is same
    assert root.usage.read_tokens == 1 + 50 * 5
    assert root.usage.proposed_tokens == 50 * 6
    assert root.usage.guide_tokens >= 2 * (1 + 50 * 5)


def test_one_pass_of_the_proposer_for_every_round(
    endless: HuggingFaceProposer, pair: GuidePair
) -> None:
    llm = W2SLLM(proposer=endless, guides=pair, max_tokens=24)
    forwards: dict[int, int] = {}
    for drafts in (0, 5):
        before = endless.lm.counters.forwards
        llm.model_copy(update={"strategy": EmulatedFineTuning(draft_tokens=drafts)}).invoke(PROMPT)
        forwards[drafts] = endless.lm.counters.forwards - before
    assert forwards[0] >= 24
    assert forwards[5] < forwards[0]


def test_the_sum_of_log_ratios_is_that_of_the_definition(
    endless: HuggingFaceProposer, pair: GuidePair
) -> None:
    sampling = SamplingParams(max_tokens=3, temperature=0.8, top_k=3)
    [children] = endless.propose(
        [request(pair, (Hypothesis.root(PROMPT),), successors=8, sampling=sampling)]
    )
    prompt = list(endless.tokenizer.prompt_ids(Hypothesis.root(PROMPT).prompt))
    for child in children:
        ids = list(child.token_ids or ())
        drift = 0.0
        for n, token in enumerate(ids):
            base = log_probabilities(endless.lm.model, [*prompt, *ids[:n]]) / 0.8
            kept = base.masked_fill(base < base.topk(3).values[-1], float("-inf")).log_softmax(-1)
            drift += float(steered(endless, pair, [*prompt, *ids[:n]])[token].log() - kept[token])
        assert child.drift == pytest.approx(drift, abs=1e-3)
        own = [
            float(log_probabilities(endless.lm.model, [*prompt, *ids[:n]])[token])
            for n, token in enumerate(ids)
        ]
        assert list(child.logprobs or ()) == pytest.approx(own, abs=1e-4)


def test_ends_stops_and_limits(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    """Whatever ends a chunk, text, tokens and counts agree, and nothing is longer than allowed."""
    proposer.tokenizer.end_ids = tuple(range(0, 320, 3))
    reasons: Counter[str | None] = Counter()
    for number, size in itertools.product(range(6), (1, 2, 4, 9)):
        llm = W2SLLM(
            proposer=proposer, guides=pair, max_tokens=size, seed=number, stop=["a", "e"],
            strategy=EmulatedFineTuning(draft_tokens=3),
        )  # fmt: skip
        [[generation]] = llm.generate([f"{PROMPT} {number}"]).generations
        info = generation.generation_info or {}
        reasons[info["finish_reason"]] += 1
        assert not {"a", "e"} & set(generation.text)
        assert info["completion_tokens"] <= size
    assert set(reasons) >= {"eos", "length"}


def test_what_cannot_draft_is_refused(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    job = Job(
        root=Hypothesis.root(PROMPT),
        strategy=EmulatedFineTuning(draft_tokens=4),
        proposer=proposer,
        scorer=None,
        guides=pair,
        sampling=SamplingParams(max_tokens=4),
        constraint=Constraint(kind="regex", source="[ab]"),
    )
    with pytest.raises(ConfigError, match="lets the tuned guide write drafts, which an answer"):
        job.check()
    with pytest.raises(ConfigError, match="draft_tokens"):
        EmulatedFineTuning(draft_tokens=65)


def test_damaged_logits_fail_the_search(endless: HuggingFaceProposer, pair: GuidePair) -> None:
    head: Any = cast(HuggingFaceGuide, pair.untuned).lm.model.get_output_embeddings()
    with torch.no_grad():
        head.weight[5] = float("nan")
    with pytest.raises(ProposerError, match="no numbers"):
        endless.propose([request(pair, (Hypothesis.root(PROMPT),))])
