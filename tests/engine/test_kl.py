"""What is reported of KL(search || frozen model): exact sums of steering, bounds of choosing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    Expand,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    Sampling,
    SamplingParams,
    SearchStrategy,
)
from w2s_chains.search import kl_bounds as divergence
from w2s_chains.search.base import Search, expand

# Steering: what was sampled from is known, so that the sum is exact.


def reported(proposer: Any, scorer: Any, strategy: Any, seeds: Any = (0,), **sampling: Any) -> list:
    jobs = [
        Job(
            root=Hypothesis.root("The movie"),
            strategy=strategy,
            proposer=proposer,
            scorer=scorer,
            guides=scorer.pair,
            sampling=SamplingParams(**{"max_tokens": 12, **sampling}),
            seed=seed,
        )
        for seed in seeds
    ]
    return [one.future.result(60) for one in Engine().submit(jobs)]


def laws(
    proposer: HuggingFaceProposer, pair: GuidePair, ids: list[int], beta: float, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities that tokens are sampled with, and those without steering. [T, V]"""
    with torch.inference_mode():
        base, tuned, untuned = (
            part.lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            for part in (proposer, *both_guides(pair))
        )
    steered = base + beta * (tuned - untuned)
    return (steered / temperature).log_softmax(-1), (base / temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [3, None])
def test_steering_reports_the_sum_over_the_answer(
    proposer: HuggingFaceProposer, pair: GuidePair, temperature: float, chunk: int | None
) -> None:
    params = SamplingParams(max_tokens=10, temperature=temperature)
    front = [Hypothesis.root("The movie")]
    answers: list[Hypothesis] = []
    while front:
        ask = Expand(hypotheses=tuple(front), successors=2 if len(front) == 1 else 1,
                     chunk_tokens=chunk, steering=1.5, guides=pair, sampling=params)  # fmt: skip
        [children] = proposer.propose([ask])
        answers += [h for h in children if h.finished]
        front = [h for h in children if not h.finished]
    for h in answers:
        prompt = list(proposer.tokenizer.prompt_ids(h.prompt))
        ids = [*prompt, *(h.response_ids or ()), *([1] * h.ended)]
        q, p = laws(proposer, pair, ids, 1.5, temperature)
        rows = range(len(prompt) - 1, len(ids) - 1)
        expected = sum((q[i, ids[i + 1]] - p[i, ids[i + 1]]).item() for i in rows)
        assert h.drift == pytest.approx(expected, abs=1e-3)
        assert abs(expected) > 0.01


def test_its_mean_is_the_divergence(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    """One token: the divergence is a sum over the vocabulary."""
    prompt = list(proposer.tokenizer.prompt_ids(Hypothesis.root("The movie").prompt))
    exact = {}
    for temperature in (1.0, 2.0):
        q, p = (law[-1] for law in laws(proposer, pair, prompt, 2.0, temperature))
        exact[temperature] = (q.exp() * (q - p)).sum().item()
    scorer = LogRatioScorer(pair)
    sampled = reported(
        proposer, scorer, EmulatedFineTuning(beta=2.0), range(300), max_tokens=1, temperature=1.0
    )
    drifts = torch.tensor([answer.kl for answer in sampled])
    error = (drifts.std() / len(drifts) ** 0.5).item()
    assert abs(drifts.mean().item() - exact[1.0]) < 4 * error
    assert abs(drifts.mean().item() - exact[2.0]) > 4 * error, "control"


# What is reported.


def test_every_strategy_reports(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> None:
    def kl(strategy: SearchStrategy, **sampling: Any) -> float | None:
        return reported(proposer, scorer, strategy, **sampling)[0].kl

    assert kl(Sampling()) == 0
    assert kl(EmulatedFineTuning(beta=0.0)) == 0
    assert kl(BestOfN(n=16)) == pytest.approx(divergence.best_of(16))
    assert kl(BestOfN(n=16), top_p=0.5, temperature=0) == pytest.approx(divergence.best_of(16))
    for chunk in (5, 17, 40):
        beam = ChunkBeamSearch(width=2, successors=3, chunk_tokens=chunk)
        [answer] = reported(proposer, scorer, beam, max_tokens=40)
        assert answer.finish_reason == "length"
        chunks = -(-40 // chunk)
        assert answer.kl == pytest.approx(math.log(2) + chunks * math.log(3))
    whole = ChunkBeamSearch(width=2, successors=3, chunk_tokens=None)
    assert kl(whole, max_tokens=40) == pytest.approx(divergence.best_of(6))
    drift = kl(EmulatedFineTuning(beta=1.0))
    assert drift is not None
    assert kl(BestOfN(n=1, steering=1.0)) == pytest.approx(drift, abs=1e-4)
    steered = kl(BestOfN(n=3, steering=1.0))
    assert steered is not None
    assert steered != pytest.approx(divergence.best_of(3), abs=1e-3)


def test_a_stop_string_keeps_what_was_drawn(proposer: HuggingFaceProposer, scorer: Any) -> None:
    beam = ChunkBeamSearch(width=2, successors=2, chunk_tokens=2, steering=0.5)
    [whole] = reported(proposer, scorer, beam, max_tokens=24)
    stop = whole.text[3:5]
    [cut] = reported(proposer, scorer, beam, max_tokens=24, stop=(stop,))
    assert cut.finish_reason == "stop"
    assert cut.kl is not None
    assert math.isfinite(cut.kl)


def test_where_there_is_no_honest_number(proposer: HuggingFaceProposer, scorer: Any) -> None:
    class Unproven(SearchStrategy):
        type: str = "unproven"

        def search(self, root: Hypothesis) -> Search:
            [answer] = yield from expand([root], 1, None)
            return answer

    class Silent:
        """Steers, but does not say how far."""

        def propose(self, requests: Any) -> Any:
            return [
                [h.extend("x", (1,), finish_reason="eos") for h in r.hypotheses] for r in requests
            ]

        def check_steering(self, guides: Any) -> None: ...

    assert reported(proposer, scorer, Unproven())[0].kl is None
    steered = EmulatedFineTuning(beta=1.0)
    assert reported(Silent(), scorer, steered)[0].kl is None
    for filtered in ({"top_k": 5}, {"top_p": 0.9}, {"temperature": 0.0}):
        assert reported(proposer, scorer, steered, **filtered)[0].kl is None
    assert reported(proposer, scorer, steered)[0].kl is not None, "control"


def test_a_strategy_that_fails_to_tell_fails_alone(proposer: Any, scorer: Any) -> None:
    class Broken(Sampling):
        def kl_bound(self, rounds: int) -> float:
            raise ZeroDivisionError("no bound")

    jobs = [
        Job(root=Hypothesis.root("x"), strategy=strategy, proposer=proposer, scorer=scorer,
            sampling=SamplingParams(max_tokens=4))
        for strategy in (Broken(), Sampling())
    ]  # fmt: skip
    broken, fine = Engine().submit(jobs)
    with pytest.raises(ZeroDivisionError):
        broken.future.result(60)
    assert fine.future.result(60).kl == 0


def test_an_answer_that_nobody_drew_took_no_rounds(proposer: Any) -> None:
    class Writes(SearchStrategy):
        type: str = "writes"

        @property
        def needs_scorer(self) -> bool:
            return False

        def kl_bound(self, rounds: int) -> float:
            return float(rounds)

        def search(self, root: Hypothesis) -> Search:
            yield from expand([root], 1, None)
            return root.extend("by hand", finish_reason="eos")

    job = Job(root=Hypothesis.root("x"), strategy=Writes(), proposer=proposer)
    [search] = Engine().submit([job])
    assert search.future.result(60).kl == 0


def test_it_comes_with_every_answer(scorer: LogRatioScorer) -> None:
    from w2s_chains import ChatW2S

    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=True)
    parts: dict[str, Any] = {"proposer": proposer, "scorer": scorer, "max_tokens": 4, "seed": 0}
    llm = W2SLLM(**parts, strategy=BestOfN(n=4))
    info = llm.generate(["x"]).generations[0][0].generation_info
    chat = ChatW2S(**parts, strategy=BestOfN(n=4)).invoke("x")
    assert info is not None
    assert info["kl"] == chat.response_metadata["kl"] == divergence.best_of(4)
