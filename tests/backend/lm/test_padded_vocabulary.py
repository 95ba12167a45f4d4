"""A model's table may have more rows than its tokenizer has tokens, or fewer."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
    SamplingParams,
)
from w2s_chains.errors import PromptError

P = TypeVar("P", HuggingFaceProposer, HuggingFaceGuide)


def part(kind: type[P], rows: int, seed: int = 0) -> P:
    return kind(tiny.llama(rows, seed=seed), tiny.byte_tokenizer())


def sampled(proposer: HuggingFaceProposer) -> list[int]:
    root = Hypothesis.root("The movie")
    ask = Expand(
        hypotheses=(root,), successors=20, sampling=SamplingParams(max_tokens=20, temperature=2.0)
    )
    [children] = proposer.propose([ask])
    return [token for child in children for token in child.response_ids or ()]


def test_padding_of_the_table_is_never_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    proposer = part(HuggingFaceProposer, 900)
    assert proposer.tokenizer.size == 320
    assert max(sampled(proposer)) < 320
    monkeypatch.setitem(proposer.tokenizer.__dict__, "size", 900)
    assert max(sampled(proposer)) >= 320, "control: most of the table is padding"


def test_what_a_search_samples_every_guide_can_read() -> None:
    proposer = part(HuggingFaceProposer, 900)
    pair = GuidePair(part(HuggingFaceGuide, 320, 1), part(HuggingFaceGuide, 384, 2))
    for strategy in (
        ChunkBeamSearch(width=2, successors=2, chunk_tokens=5),
        EmulatedFineTuning(beta=1.0),
    ):
        llm = W2SLLM(
            proposer=proposer, scorer=LogRatioScorer(pair), strategy=strategy, max_tokens=20,
            seed=0, temperature=2.0,
        )  # fmt: skip
        assert isinstance(llm.invoke("The movie"), str)


def test_a_token_without_a_row_is_refused() -> None:
    """The tokenizer has tokens that were added to it, and the model was not resized."""
    small = HuggingFaceProposer(tiny.llama(280), tiny.byte_tokenizer())
    llm = W2SLLM(proposer=small, strategy=Sampling(), max_tokens=5, seed=0)
    known, unknown = (str(tiny.byte_tokenizer().decode([40, token])) for token in (50, 300))
    assert isinstance(llm.invoke(known), str)
    with pytest.raises(PromptError, match=r"token 300.*only 280"):
        llm.invoke(unknown)
    guide = HuggingFaceGuide(tiny.llama(280), tiny.byte_tokenizer())
    child = Hypothesis.root(known).extend("x", (300,), vocabulary=guide.tokenizer.vocabulary)
    with pytest.raises(PromptError, match="token 300"):
        guide.loglikelihood([child])
    assert torch.isfinite(torch.tensor(small.loglikelihood([Hypothesis.root(known)])))
