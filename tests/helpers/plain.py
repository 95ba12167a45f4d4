"""A search by hand whose every value is compared with one plain forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers import tiny
from w2s_chains import Expand, HuggingFaceGuide, HuggingFaceProposer, Hypothesis, SamplingParams

SIZES = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def build(model: Any, config: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return model(config(**{**SIZES, **options})).eval()


def alone(guide: Any, h: Hypothesis) -> float:
    """The loglikelihood by one plain forward over the whole text."""
    prompt, ids = list(guide.tokenizer.prompt_ids(h.prompt)), list(h.response_ids or ())
    with torch.inference_mode():
        table = guide.lm.model(torch.tensor([prompt + ids]), use_cache=False).logits[0]
    table = table.log_softmax(-1)[len(prompt) - 1 :]
    return sum(table[i, token].item() for i, token in enumerate(ids))


def searched(model: Any, prompts: tuple[str, ...] = ("The movie was great", "A")) -> None:
    """A small search by hand, by a proposer and a guide: every value is that of a plain forward."""
    proposer = HuggingFaceProposer(model, tiny.byte_tokenizer())
    guide = HuggingFaceGuide(model, tiny.byte_tokenizer())
    beams = [[Hypothesis.root(prompt)] for prompt in prompts]
    for _ in range(2):
        asks = [
            Expand(
                hypotheses=tuple(beam),
                successors=3,
                chunk_tokens=4,
                sampling=SamplingParams(max_tokens=40, temperature=1.0),
                seed=1,
            )
            for beam in beams
        ]
        beams = [[h for h in own if not h.finished] for own in proposer.propose(asks)]
        flat = [h for beam in beams for h in beam]
        plain = [alone(guide, h) for h in flat]
        assert proposer.loglikelihood(flat) == pytest.approx(plain, abs=2e-3)
        assert guide.loglikelihood(flat) == pytest.approx(plain, abs=2e-3)
