"""What comes with the text of a W2SLLM: usage, scores, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from langchain_core.callbacks import BaseCallbackHandler

from tests.helpers.llms import BEAM, PROMPT, PROMPTS, STRATEGIES, both_guides
from w2s_chains import (
    W2SLLM,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
    SearchStrategy,
)


def test_generation_info_and_usage(llm: W2SLLM, proposer: HuggingFaceProposer) -> None:
    result = llm.generate(PROMPTS[:4])
    infos: list[dict[str, Any]] = [own[0].generation_info or {} for own in result.generations]
    for prompt, info in zip(PROMPTS, infos, strict=False):
        assert set(info) == {
            "score", "finish_reason", "completion_tokens", "prompt_tokens", "read_tokens", "rounds",
            "proposed_tokens", "guide_tokens", "guide_flops_ratio", "kl",
        }  # fmt: skip
        assert info["prompt_tokens"] == len(
            proposer.tokenizer.prompt_ids(Hypothesis.root(prompt).prompt)
        )
        assert info["finish_reason"] in ("length", "eos")
        assert info["completion_tokens"] <= 12
        assert (info["completion_tokens"] == 12) == (info["finish_reason"] == "length")
        # 2 x 2 children of 4 tokens, three times.
        assert 12 <= info["proposed_tokens"] <= 48
        assert 1 <= info["rounds"] <= 3
        # Of the 4 children of 4 tokens 3 each, and at most 2 parents.
        assert info["read_tokens"] <= 1 + 4 * 3 + 2 * (2 + 4 * 3)
    # At least the prompt twice; at most prompt, answers and end tokens, twice.
    for info in infos:
        assert info["guide_tokens"] > 2 * info["prompt_tokens"]
        assert info["guide_tokens"] <= 2 * (info["prompt_tokens"] - 1 + info["read_tokens"])
        assert info["guide_flops_ratio"] > 0
    usage = (result.llm_output or {})["token_usage"]
    for name in ("prompt_tokens", "read_tokens", "proposed_tokens", "guide_tokens"):
        assert usage[name] == sum(info[name] for info in infos)
    unguided = llm.generate([PROMPT], strategy=Sampling(), n=2)
    assert (unguided.llm_output or {})["token_usage"]["proposed_tokens"] <= 24


def test_without_scorer_there_is_no_score(proposer: HuggingFaceProposer) -> None:
    llm = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=5, seed=0)
    info = llm.generate([PROMPT]).generations[0][0].generation_info
    assert info is not None
    assert info["score"] is None
    assert info["guide_tokens"] == 0


def test_the_last_piece_of_a_stream_carries_the_info(llm: W2SLLM) -> None:
    ends: list[Any] = []

    class Ends(BaseCallbackHandler):
        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            ends.append(response.generations[0][0].generation_info)

    list(llm.stream(PROMPT, {"callbacks": [Ends()]}))
    assert ends[0] == llm.generate([PROMPT]).generations[0][0].generation_info


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if not s.token_steering])
def test_the_score_is_that_of_the_text(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair, strategy: SearchStrategy
) -> None:
    """Guides with another vocabulary see text, so that the text alone must give the score again."""
    llm = W2SLLM(
        proposer=proposer, scorer=LogRatioScorer(foreign_pair), strategy=strategy, max_tokens=10,
        seed=0,
    )  # fmt: skip
    fresh = GuidePair(
        *(HuggingFaceGuide(g.lm.model, g.tokenizer.hf_tokenizer) for g in both_guides(foreign_pair))
    )
    result = llm.generate(PROMPTS[:6]).generations
    texts = [own[0].text for own in result]
    ended = [(own[0].generation_info or {})["finish_reason"] == "eos" for own in result]
    scores = [(own[0].generation_info or {})["score"] for own in result]
    wanted = LogRatioScorer(fresh).score_texts(PROMPTS[:6], texts, ended)
    assert scores == pytest.approx(wanted, abs=1e-4)
    swapped = LogRatioScorer(fresh.swapped()).score_texts(PROMPTS[:6], texts, ended)
    assert scores == pytest.approx([-value for value in swapped], abs=1e-4)
    assert max(map(abs, scores)) > 0.01  # control: not all zero


class Remembering(LogRatioScorer):
    """Remembers the token ids of what it scored."""

    def __init__(self, pair: GuidePair) -> None:
        super().__init__(pair)
        self.ids: dict[tuple[str, float], tuple[tuple[int, ...], bool]] = {}

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        scores = super().score(hypotheses)
        for h, value in zip(hypotheses, scores, strict=True):
            assert h.response_ids is not None
            self.ids[h.response, value] = h.response_ids, h.ended
        return scores


def test_the_score_is_that_of_a_plain_forward_over_the_tokens(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    scorer = Remembering(pair)
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=10, seed=0)
    for prompt, own in zip(PROMPTS[:6], llm.generate(PROMPTS[:6]).generations, strict=True):
        info = own[0].generation_info or {}
        ids, ended = scorer.ids[own[0].text, info["score"]]
        assert ended == (info["finish_reason"] == "eos")
        assert len(ids) == info["completion_tokens"]
        prompt_ids = proposer.tokenizer.prompt_ids(Hypothesis.root(prompt).prompt)
        whole = torch.tensor([[*prompt_ids, *ids, *([1] if ended else [])]])
        values = []
        for guide in both_guides(pair):
            with torch.inference_mode():
                logprobs = guide.lm.model(whole).logits.float().log_softmax(-1)[0, :-1]
            chosen = logprobs.gather(1, whole[0, 1:, None])[:, 0]
            values.append(float(chosen[len(prompt_ids) - 1 :].sum()))
        assert info["score"] == pytest.approx(values[0] - values[1], abs=1e-4)
