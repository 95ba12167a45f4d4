"""Further children, children without replacement, and chunks that end at a place in the text."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from tests.helpers import tiny
from w2s_chains import Constraint, Expand, HuggingFaceProposer, Hypothesis, SamplingParams
from w2s_chains.core.asks import Until

PROMPT = "The movie was great and"
END = 1  # the tiny tokenizer's end token


@pytest.fixture(scope="module")
def proposer() -> HuggingFaceProposer:
    return HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())


def ask(h: Hypothesis, seed: int = 0, sampling: dict[str, Any] | None = None, **options: Any):
    params = SamplingParams(**{"max_tokens": 24, **(sampling or {})})
    return Expand(hypotheses=(h,), sampling=params, seed=seed, **options)


def first_token(child: Hypothesis) -> int:
    return child.token_ids[0] if child.token_ids else END


def probabilities(proposer: HuggingFaceProposer, temperature: float = 1.0) -> torch.Tensor:
    ids = torch.tensor([proposer.tokenizer.prompt_ids(Hypothesis.root(PROMPT).prompt)])
    with torch.inference_mode():
        logits = proposer.lm.model(ids).logits[0, -1].float()[: proposer.tokenizer.size]
    return (logits / temperature).softmax(0)


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("chunk", [1, 5])
def test_children_are_a_function_of_their_number(
    proposer: HuggingFaceProposer, distinct: bool, chunk: int
) -> None:
    root = Hypothesis.root(PROMPT)
    [whole] = proposer.propose([ask(root, successors=9, chunk_tokens=chunk, distinct=distinct)])
    asks = [
        ask(root, successors=count, first=first, chunk_tokens=chunk, distinct=distinct)
        for first, count in ((0, 2), (2, 1), (3, 6))
    ]
    parts = [child for own in proposer.propose(asks) for child in own]
    assert [c.token_ids for c in parts] == [c.token_ids for c in whole]
    assert [c.stream for c in parts] == [c.stream for c in whole]
    # The control: a number too far.
    [other] = proposer.propose([ask(root, successors=9, first=1, chunk_tokens=chunk)])
    assert [c.token_ids for c in other] != [c.token_ids for c in whole]


def test_distinct_children_of_a_cold_model_are_the_likeliest_tokens(
    proposer: HuggingFaceProposer,
) -> None:
    root, cold = Hypothesis.root(PROMPT), {"temperature": 0}
    [children] = proposer.propose([ask(root, 0, cold, successors=6, chunk_tokens=1, distinct=True)])
    likeliest = probabilities(proposer).topk(6).indices.tolist()
    assert [first_token(child) for child in children] == likeliest


def test_distinct_children_are_drawn_without_replacement(proposer: HuggingFaceProposer) -> None:
    """The pair of the first two tokens has probability p(a) p(b) / (1 - p(a))."""
    sampling = {"temperature": 0.2, "top_k": 4}
    p = probabilities(proposer, 0.2)
    kept = p.topk(4)
    chances = kept.values.double() / kept.values.double().sum()
    p = dict(zip(kept.indices.tolist(), chances.tolist(), strict=True))
    root = Hypothesis.root(PROMPT)
    times = 4000
    asks = [
        ask(root, seed, sampling, successors=2, chunk_tokens=1, distinct=True)
        for seed in range(times)
    ]
    found = Counter(tuple(map(first_token, own)) for own in proposer.propose(asks))
    pairs = [(a, b) for a in p for b in p if a != b]
    assert set(found) <= set(pairs), "no token is drawn twice"
    counts = [found[pair] for pair in pairs]

    def fits(chances: list[float]) -> float:
        return chisquare(counts, [times * chance / sum(chances) for chance in chances]).pvalue

    assert fits([p[a] * p[b] / (1 - p[a]) for a, b in pairs]) > 1e-4
    assert fits([p[a] * p[b] for a, b in pairs]) < 1e-6, "control: independent draws that differ"


def test_where_filters_leave_fewer_tokens_the_first_ones_come_again(
    proposer: HuggingFaceProposer,
) -> None:
    request = ask(
        Hypothesis.root(PROMPT), 3, {"top_k": 2}, successors=5, chunk_tokens=1, distinct=True
    )
    [children] = proposer.propose([request])
    tokens = [first_token(child) for child in children]
    assert len({*tokens[:2]}) == 2
    assert tokens == [tokens[0], tokens[1], tokens[0], tokens[1], tokens[0]]


def test_distinct_and_independent_requests_share_a_batch(proposer: HuggingFaceProposer) -> None:
    root, other = Hypothesis.root(PROMPT), Hypothesis.root("Another prompt")
    asks = [
        ask(root, successors=4, chunk_tokens=3, distinct=True),
        ask(root, successors=4, chunk_tokens=3),
        ask(other, successors=7, chunk_tokens=1, distinct=True),
        ask(other, 0, {"temperature": 0}, successors=2, chunk_tokens=2, distinct=True),
    ]
    together = proposer.propose(asks)
    alone = [proposer.propose([request])[0] for request in asks]
    assert [[c.token_ids for c in own] for own in together] == [
        [c.token_ids for c in own] for own in alone
    ]
    assert len({first_token(child) for child in together[0]}) == 4


def test_distinct_children_keep_to_a_form(proposer: HuggingFaceProposer) -> None:
    request = Expand(
        hypotheses=(Hypothesis.root(PROMPT),),
        successors=6,
        chunk_tokens=1,
        distinct=True,
        sampling=SamplingParams(max_tokens=8),
        constraint=Constraint.regex("(ab|cd|ef)x"),
    )
    [children] = proposer.propose([request])
    texts = {child.text for child in children}
    assert {text[0] for text in texts} == {"a", "c", "e"}
    assert len(texts) >= 3
    for child in children:  # each goes on in its own state
        follow = Expand(
            hypotheses=(child,),
            chunk_tokens=8,
            sampling=request.sampling,
            constraint=request.constraint,
        )
        [[whole]] = proposer.propose([follow])
        assert whole.response in ("abx", "cdx", "efx")
        assert whole.response.startswith(child.text)


def entropies(proposer: HuggingFaceProposer, child: Hypothesis) -> list[float]:
    ids = list(proposer.tokenizer.prompt_ids(child.prompt))
    begin = len(ids) - 1
    whole = torch.tensor([ids + list(child.response_ids or ())])
    with torch.inference_mode():
        table = proposer.lm.model(whole).logits[0, begin:].float().log_softmax(1)
    return (-(table.exp() * table).sum(1)).tolist()


@pytest.mark.parametrize("limit", [2.5, 3.5, 4.0, 100.0])
def test_a_chunk_ends_before_a_token_of_more_entropy(
    proposer: HuggingFaceProposer, limit: float
) -> None:
    root = Hypothesis.root(PROMPT)
    [plain] = proposer.propose([ask(root, successors=8, chunk_tokens=24)])
    [cut] = proposer.propose([ask(root, successors=8, chunk_tokens=24, until=Until(entropy=limit))])
    for whole, child in zip(plain, cut, strict=True):
        assert whole.token_ids is not None
        assert child.token_ids is not None
        wanted = entropies(proposer, whole)[: len(whole.token_ids) + whole.ended]
        ends = [i for i, value in enumerate(wanted) if i and value > limit]
        count = ends[0] if ends else len(whole.token_ids)
        assert child.token_ids == whole.token_ids[:count]
        assert child.finish_reason == (None if ends else whole.finish_reason)
        assert child.entropies == pytest.approx(wanted[: len(child.entropies or ())], abs=1e-3)
        assert len(child.entropies or ()) == len(child.logprobs or ())
    assert (limit < 100) == any(not child.finished for child in cut), "control: limits cut"


def test_a_chunk_ends_with_the_token_in_which_a_string_ends(proposer: HuggingFaceProposer) -> None:
    root = Hypothesis.root(PROMPT)
    [plain] = proposer.propose([ask(root, successors=40, chunk_tokens=24)])
    letters = Counter(letter for child in plain for letter in child.text if letter.isalnum())
    string = letters.most_common(1)[0][0]
    [cut] = proposer.propose(
        [ask(root, successors=40, chunk_tokens=24, until=Until(strings=(string,)))]
    )
    assert any(not child.finished for child in cut)
    for whole, child in zip(plain, cut, strict=True):
        ids = child.token_ids or ()
        assert (whole.token_ids or ())[: len(ids)] == ids
        assert string not in proposer.tokenizer.decode_after((), (), ids[:-1])[0]
        assert child.finished or string in child.text
    # What was cut off is sampled again, the same: the stream goes on from there.
    shorter = [(w, c) for w, c in zip(plain, cut, strict=True) if not c.finished][:4]
    for whole, child in shorter:
        [[rest]] = proposer.propose([ask(child, chunk_tokens=24)])
        assert rest.response_ids == whole.response_ids
        assert rest.finish_reason == whole.finish_reason
        [found] = proposer.loglikelihood([rest])
        [wanted] = proposer.loglikelihood([whole])
        assert found == pytest.approx(wanted, abs=1e-3)


def test_children_report_their_logprobs(proposer: HuggingFaceProposer) -> None:
    [children] = proposer.propose([ask(Hypothesis.root(PROMPT), successors=6, chunk_tokens=24)])
    for child in children:
        [value] = proposer.loglikelihood([child])
        assert child.logprobs is not None
        assert sum(child.logprobs) == pytest.approx(value, abs=1e-3)
        assert len(child.logprobs) == len(child.token_ids or ()) + child.ended
    assert math.isfinite(sum(children[0].logprobs or ()))
