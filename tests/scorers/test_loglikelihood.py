"""The proposer's own loglikelihood: equal to a full forward, whatever was sampled and how."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers import tiny
from w2s_chains import (
    ChunkBeamSearch,
    Engine,
    Expand,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LoglikelihoodScorer,
    SamplingParams,
)
from w2s_chains.errors import ConfigError

SAMPLINGS = {
    "plain": {},
    "cold and filtered": {"temperature": 0.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.3},
    "greedy": {"temperature": 0.0},
}


def by_hand(proposer: HuggingFaceProposer, h: Hypothesis, temperature: float = 1.0) -> float:
    """Log p of the answer by one full forward of transformers."""
    prompt = proposer.tokenizer.prompt_ids(h.prompt)
    ids = [*prompt, *(h.response_ids or ())]
    ids += [proposer.tokenizer.hf_tokenizer.eos_token_id] * h.ended
    with torch.inference_mode():
        logits = proposer.lm.model(torch.tensor([ids])).logits[0] / temperature
    logprobs = logits.log_softmax(-1)
    return sum(logprobs[i - 1, ids[i]].item() for i in range(len(prompt), len(ids)))


def grown(proposer: HuggingFaceProposer, chunk: int = 4, **sampling: Any) -> list[Hypothesis]:
    """Answers of two prompts that were sampled chunk by chunk, and their beginnings."""
    params = SamplingParams(max_tokens=12, **sampling)
    nodes: list[Hypothesis] = []
    front = [Hypothesis.root("The movie"), Hypothesis.root("A boring film; the")]
    while front := [h for h in front if not h.finished]:
        asks = [
            Expand(hypotheses=(h,), successors=2, chunk_tokens=chunk, sampling=params)
            for h in front
        ]
        front = [child for own in proposer.propose(asks) for child in own]
        nodes += front
    return nodes


@pytest.fixture
def ending() -> HuggingFaceProposer:
    """Its answers often end by themselves."""
    model = tiny.llama(320)
    with torch.no_grad():
        model.lm_head.weight[1] *= 2.5
    return HuggingFaceProposer(model, tiny.byte_tokenizer())


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_it_is_that_of_a_full_forward(ending: HuggingFaceProposer, sampling: Any) -> None:
    nodes = grown(ending, **sampling)
    before = ending.lm.counters.tokens_read
    found = LoglikelihoodScorer(ending).score(nodes)
    assert ending.lm.counters.tokens_read == before, "nothing is read again"
    assert found == pytest.approx([by_hand(ending, h) for h in nodes], abs=1e-4)
    tempered = [by_hand(ending, h, 0.5) for h in nodes]
    assert any(abs(a - b) > 0.1 for a, b in zip(found, tempered, strict=True)), "control"


def test_some_answers_end_and_their_end_counts(ending: HuggingFaceProposer) -> None:
    nodes = grown(ending)
    assert 0 < sum(h.ended for h in nodes) < len(nodes)
    without = [by_hand(ending, h) for h in nodes]
    for h, value in zip(nodes, without, strict=True):
        assert h.parent is not None
        twin = h.parent.extend(h.text, h.token_ids, finish_reason="length", vocabulary=h.vocabulary)
        end = value - by_hand(ending, twin)
        assert (end < -1e-3) == h.ended


def test_cached_equals_uncached_and_shuffled(ending: HuggingFaceProposer) -> None:
    nodes = grown(ending, temperature=0.7, stop=["e"])
    nodes.append(Hypothesis.root("The movie").extend(" was great", finish_reason="eos"))
    cached = LoglikelihoodScorer(ending).score(nodes)
    model, tokenizer = ending.lm.model, ending.tokenizer.hf_tokenizer
    afresh = LoglikelihoodScorer(HuggingFaceProposer(model, tokenizer))
    assert afresh.score(nodes[::-1]) == pytest.approx(cached[::-1], abs=1e-4)
    other = LoglikelihoodScorer(HuggingFaceProposer(tiny.llama(320, seed=9), tokenizer))
    assert other.score(nodes) != pytest.approx(cached, abs=0.1), "control"


def test_a_text_that_was_continued_before_it_was_scored(ending: HuggingFaceProposer) -> None:
    """It is read when it is continued; its own tokens count all the same."""
    ids = ending.tokenizer.encode(" was great")
    start = Hypothesis.root("The movie").extend(
        " was great", tuple(ids), vocabulary=ending.tokenizer.vocabulary
    )
    ask = Expand(hypotheses=(start,), chunk_tokens=3, sampling=SamplingParams(max_tokens=20))
    [[child]] = ending.propose([ask])
    model, tokenizer = ending.lm.model, ending.tokenizer.hf_tokenizer
    afresh = HuggingFaceProposer(model, tokenizer).loglikelihood([start, child])
    assert ending.loglikelihood([start, child]) == pytest.approx(afresh, abs=1e-4)
    assert afresh[0] < -1


def test_per_token_is_the_mean(ending: HuggingFaceProposer) -> None:
    nodes = grown(ending)
    total = LoglikelihoodScorer(ending).score(nodes)
    mean = LoglikelihoodScorer(ending, per_token=True).score(nodes)
    counts = [h.n_tokens + h.ended for h in nodes]
    assert mean == pytest.approx([t / n for t, n in zip(total, counts, strict=True)])
    assert min(counts) < max(counts)


def test_a_beam_by_it_finds_likelier_texts(proposer: HuggingFaceProposer) -> None:
    def best(scorer: Any) -> float:
        jobs = [
            Job(
                root=Hypothesis.root(prompt),
                strategy=ChunkBeamSearch(width=3, successors=3, chunk_tokens=1),
                proposer=proposer,
                scorer=scorer,
                sampling=SamplingParams(max_tokens=12),
            )
            for prompt in ("The movie", "A boring film; the", "x")
        ]
        texts = [one.future.result(60).text for one in Engine().submit(jobs)]
        answers = [
            job.root.extend(text, finish_reason="length")
            for job, text in zip(jobs, texts, strict=True)
        ]
        return sum(proposer.loglikelihood(answers))

    class Backwards(LoglikelihoodScorer):
        def score(self, hypotheses: Any) -> list[float]:
            return [-value for value in super().score(hypotheses)]

    assert best(LoglikelihoodScorer(proposer)) > best(Backwards(proposer)) + 10


def test_a_proposer_that_cannot_tell(pair: GuidePair) -> None:
    with pytest.raises(ConfigError, match="the proposer GuidePair cannot tell; use a Hugging"):
        LoglikelihoodScorer(pair)  # pyright: ignore[reportArgumentType]
