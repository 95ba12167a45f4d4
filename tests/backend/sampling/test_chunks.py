"""Sampling is what was asked for, and a sample depends on nothing but its own request."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from w2s_chains import (
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    SamplingParams,
)
from w2s_chains.backend.lm import DEFAULT_TOKEN_BUDGET
from w2s_chains.backend.lm.logits import log_exponential
from w2s_chains.core.sampling import noise_key

PROMPT = "The movie was great and"


def propose(
    proposer,
    *,
    prompt=PROMPT,
    successors=1,
    chunk=20,
    seed=0,
    guides=None,
    steering=0.0,
    **sampling,
):
    root = Hypothesis.root(prompt)
    params = SamplingParams(**{"max_tokens": 20, **sampling})
    ask = Expand(
        hypotheses=(root,), successors=successors, chunk_tokens=chunk, sampling=params, seed=seed,
        steering=steering, guides=guides,
    )  # fmt: skip
    return proposer.propose([ask])[0]


def next_logits(proposer, prompt=PROMPT):
    with torch.inference_mode():
        ids = torch.tensor([proposer.tokenizer.prompt_ids(Hypothesis.root(prompt).prompt)])
        return proposer.lm.model(ids).logits[0, -1].float()


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_greedy_equals_generate(make):
    proposer = HuggingFaceProposer(make(320), tiny.byte_tokenizer())
    [child] = propose(proposer, temperature=0)
    ids = torch.tensor([proposer.tokenizer.prompt_ids(child.prompt)])
    model: Any = proposer.lm.model
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=1
    )[0, ids.shape[1] :].tolist()
    assert child.token_ids is not None
    assert list(child.token_ids) == [i for i in expected if i != 1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-38, 1e-12])
def test_next_to_zero_is_greedy(proposer, temperature):
    greedy = propose(proposer, temperature=0)[0].token_ids
    assert propose(proposer, temperature=temperature, top_k=2**70)[0].token_ids == greedy


def test_greedy_with_repetition_penalty_equals_generate(proposer):
    [child] = propose(proposer, temperature=0, repetition_penalty=1.7)
    ids = torch.tensor([proposer.tokenizer.prompt_ids(child.prompt)])
    expected = proposer.lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
        repetition_penalty=1.7, pad_token_id=1,
    )[0, ids.shape[1] :].tolist()  # fmt: skip
    assert list(child.token_ids) == [i for i in expected if i != 1]
    assert child.token_ids != propose(proposer, temperature=0)[0].token_ids


@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.6}, {"top_k": 20, "top_p": 0.5}],
    ids=str,
)
def test_the_first_token_has_the_distribution_asked_for(proposer, params):
    """Chi-square of 4,000 draws against the distribution computed from the logits."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = next_logits(proposer)[None]
    unread: Any = None  # the warpers look at the logits alone
    if "temperature" in params:
        logits = TemperatureLogitsWarper(params["temperature"])(unread, logits)
    if "top_k" in params:
        logits = TopKLogitsWarper(params["top_k"])(unread, logits)
    if "top_p" in params:
        logits = TopPLogitsWarper(params["top_p"])(unread, logits)
    expected = logits.softmax(1)[0]
    draws = 4000
    children = propose(proposer, successors=draws, chunk=1, **params)
    seen = Counter(1 if c.ended else c.token_ids[0] for c in children)
    assert all(expected[token] > 0 for token in seen), "a filtered token was sampled"
    common = [t for t in range(len(expected)) if expected[t] * draws >= 5]
    rest = 1 - expected[common].sum().item()
    table = [(seen[t], expected[t].item() * draws) for t in common]
    if rest * draws >= 5:
        table.append((draws - sum(seen[t] for t in common), rest * draws))
    chi = sum((o - e) ** 2 / e for o, e in table)
    freedom = max(len(table) - 1, 1)
    assert chi < freedom + 5 * (2 * freedom) ** 0.5


def test_filters_hold_for_each_row_of_a_mixed_batch(proposer):
    asks = [
        Expand(hypotheses=(Hypothesis.root(PROMPT),), successors=3, chunk_tokens=8, sampling=params)
        for params in (
            SamplingParams(temperature=0),
            SamplingParams(top_k=2),
            SamplingParams(temperature=1.3, repetition_penalty=1.4),
            SamplingParams(),
        )
    ]
    together = proposer.propose(asks)
    alone = [proposer.propose([ask])[0] for ask in asks]
    assert [[c.token_ids for c in own] for own in together] == [
        [c.token_ids for c in own] for own in alone
    ]
    assert len({c.token_ids for c in together[0]}) == 1, "greedy successors are all the same"
    assert len({c.token_ids for c in together[3]}) == 3


def test_the_first_successor_continues_however_the_text_is_cut(proposer):
    [whole] = propose(proposer, chunk=20)
    for chunk in (1, 3, 7):
        node = Hypothesis.root(PROMPT)
        while not node.finished:
            ask = Expand(
                hypotheses=(node,), chunk_tokens=chunk, sampling=SamplingParams(max_tokens=20)
            )
            [[node]] = proposer.propose([ask])
        assert (node.response_ids, node.response) == (whole.response_ids, whole.response)


def test_batch_mates_order_and_budget_change_nothing():
    prompts = ["A", "The movie", "電影很好看 😀 and", PROMPT * 4, "x" * 60]
    sampling = SamplingParams(max_tokens=12)

    def run(proposer, order):
        asks = [
            Expand(hypotheses=(Hypothesis.root(prompts[i]),), successors=3, chunk_tokens=12,
                   sampling=sampling, seed=i)
            for i in order
        ]  # fmt: skip
        return {
            i: [(c.response_ids, c.response) for c in own]
            for i, own in zip(order, proposer.propose(asks), strict=True)
        }

    model, tokenizer = tiny.llama(320), tiny.byte_tokenizer()
    alone = {}
    for i in range(5):
        alone |= run(HuggingFaceProposer(model, tokenizer), [i])
    for order in ([0, 1, 2, 3, 4], [3, 1, 4, 0, 2]):
        for budget in (32_768, 200, 1):
            proposer = HuggingFaceProposer(model, tokenizer, token_budget=budget)
            assert run(proposer, order) == alone
    assert alone[0] != alone[1]


def test_seeds_and_prompts_have_their_own_noise(proposer):
    texts = {propose(proposer, seed=seed)[0].token_ids for seed in range(5)}
    assert len(texts) == 5


def test_running_out_of_memory_halves_the_budget_and_goes_on(proposer, monkeypatch):
    expected = [c.token_ids for c in propose(proposer, successors=8)]
    forward, sizes = proposer.lm.forward, []

    def small(batch, ids, *args, **kwargs):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory (for the test)")
        sizes.append(len(batch))
        return forward(batch, ids, *args, **kwargs)

    monkeypatch.setattr(proposer.lm, "forward", small)
    assert [c.token_ids for c in propose(proposer, successors=8)] == expected
    assert max(sizes) == 2
    assert proposer.lm.token_budget < DEFAULT_TOKEN_BUDGET


@pytest.mark.parametrize(
    ("items", "budget", "fits", "sizes", "left"),
    [
        (8, 80, 25, [8, 4, 2, 2, 2, 2], 20),
        (3, 80, 25, [3, 1, 1, 1], 15),
        (5, 45, 45, [4, 1], 45),
        (5, 45, 30, [4, 2, 2, 1], 20),
    ],
)
def test_the_budget_is_half_of_what_did_not_fit(proposer, items, budget, fits, sizes, left):
    tried = []

    def run(batch):
        tried.append(len(batch))
        if 10 * len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory (for the test)")
        return batch

    proposer.lm.token_budget = budget
    assert proposer.lm.in_batches(range(items), lambda _: 10, run) == [*range(items)]
    assert (tried, proposer.lm.token_budget) == (sizes, left)


def test_a_row_that_does_not_fit_alone_is_a_clear_error(proposer, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(proposer.lm, "forward", full)
    with pytest.raises(MemoryError, match="shorten the prompt or max_tokens"):
        propose(proposer)


def test_steering_samples_from_the_mixture(proposer, pair):
    """The first token against softmax(log p_base + beta * (log p_tuned - log p_untuned))."""
    beta, draws = 1.5, 4000
    base, tuned, untuned = (
        next_logits(part).log_softmax(-1) for part in (proposer, pair.tuned, pair.untuned)
    )
    expected = (base + beta * (tuned - untuned)).softmax(-1)
    children = propose(proposer, successors=draws, chunk=1, steering=beta, guides=pair)
    seen = Counter(1 if c.ended else c.token_ids[0] for c in children)
    common = [t for t in range(len(expected)) if expected[t] * draws >= 5]
    chi = sum(
        (seen[t] - expected[t].item() * draws) ** 2 / (expected[t].item() * draws) for t in common
    )
    assert chi < len(common) + 5 * (2 * len(common)) ** 0.5
    unsteered = base.softmax(-1)
    control = sum(
        (seen[t] - unsteered[t].item() * draws) ** 2 / (unsteered[t].item() * draws)
        for t in range(len(unsteered))
        if unsteered[t] * draws >= 5
    )
    assert control > 3 * chi, "the control: the same draws do not look like the base's"


def test_what_steering_read_is_what_scoring_reads(proposer, pair):
    """Guides keep what they read while they steered, and it equals a reading from scratch."""
    children = propose(proposer, successors=4, steering=0.7, guides=pair)
    before = pair.tuned.lm.counters.tokens_read
    kept = pair.loglikelihoods(children)
    read_again = pair.tuned.lm.counters.tokens_read - before
    assert read_again <= sum(len(c.token_ids) + 1 for c in children if c.ended)
    fresh = GuidePair(
        *(
            HuggingFaceGuide(g.lm.model, g.tokenizer.hf_tokenizer)
            for g in (pair.tuned, pair.untuned)
        )
    )
    for got, expected in zip(kept, fresh.loglikelihoods(children), strict=True):
        assert got == pytest.approx(expected, abs=1e-4)


def test_what_steering_reads_is_counted_in_every_branch(proposer, pair):
    """Also in those that a stop string cut or that ended: the guides read them all the same."""
    children = propose(proposer, successors=4, steering=0.7, guides=pair, stop=("e",))
    usage = children[0].usage
    prompt = len(proposer.tokenizer.prompt_ids(children[0].prompt))
    assert any(c.finish_reason == "stop" for c in children)
    # The last token of the prompt, and of each branch what was sampled but the last.
    assert usage.read_tokens == 1 + usage.proposed_tokens - len(children)
    assert usage.guide_tokens == 2 * (prompt - 1 + usage.read_tokens)


def test_the_prompt_is_read_once_for_all_successors(proposer):
    propose(proposer, successors=16, max_tokens=5)
    prompt = len(proposer.tokenizer.prompt_ids(Hypothesis.root(PROMPT).prompt))
    assert proposer.lm.counters.prefills == 1
    # The prompt once, its last token in 2 rows of 8 branches each, then 16 tokens for 4 more steps.
    assert proposer.lm.counters.tokens_read == prompt - 1 + 2 + 16 * 4


def test_noise_is_standard_exponential():
    keys = torch.tensor([noise_key(0, i) for i in range(64)], dtype=torch.int32)
    noise = log_exponential(keys, 20_000).exp()
    assert noise.mean().item() == pytest.approx(1, abs=0.01)
    assert noise.var().item() == pytest.approx(1, abs=0.03)
    assert (noise < 1e-3).float().mean().item() == pytest.approx(1e-3, rel=0.15)
    rows = noise - noise.mean(1, keepdim=True)
    correlation = (rows @ rows.T) / rows.pow(2).sum(1)
    off = correlation - torch.diag(correlation.diag())
    assert off.abs().max() < 0.05
    again = log_exponential(keys[5:6], 20_000).exp()
    assert torch.equal(again[0], noise[5])


def test_bfloat16_runs(pair):
    model: Any = tiny.llama(320)
    proposer = HuggingFaceProposer(model.to(torch.bfloat16), tiny.byte_tokenizer())
    children = propose(proposer, successors=3)
    assert len({c.token_ids for c in children}) == 3
    assert [c.token_ids for c in propose(proposer, successors=3)] == [c.token_ids for c in children]
