"""LongRoPE reads long texts with other frequencies: neither batch mates nor padding do so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    Expand,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Sampling,
    SamplingParams,
)
from w2s_chains.errors import PromptError

BORDER = 32
SHORT, LONG = "The movie", "x " * 20


def phi3() -> Any:
    """Long texts are those of more than 32 tokens."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "factor": 8.0,
        "original_max_position_embeddings": BORDER,
        "short_factor": [1.0] * 4, "long_factor": [1.0 + 4 * i for i in range(4)],
    }  # fmt: skip
    config = Phi3Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, bos_token_id=0,
        eos_token_id=1, pad_token_id=0, max_position_embeddings=256, sliding_window=None,
        rope_parameters=rope, original_max_position_embeddings=BORDER,
    )  # fmt: skip
    return Phi3ForCausalLM(config).eval()


def ask(text: str, steps: int, **options: Any) -> Expand:
    sampling = SamplingParams(max_tokens=steps, temperature=1.0)
    return Expand(hypotheses=(Hypothesis.root(text),), sampling=sampling, seed=1, **options)


def plain(part: Any, h: Hypothesis) -> float:
    prompt, ids = list(part.tokenizer.prompt_ids(h.prompt)), list(h.response_ids or ())
    with torch.inference_mode():
        table = part.lm.model(torch.tensor([prompt + ids]), use_cache=False).logits[0]
    table = table.log_softmax(-1)[len(prompt) - 1 :]
    return sum(table[i, token].item() for i, token in enumerate(ids))


@pytest.mark.parametrize(
    "asks",
    [
        [ask(SHORT, 8), ask(LONG, 8)],
        [ask(SHORT, 4), ask("x " * 12, 3)],
        [ask("x " * 12, 3), ask(SHORT, 20)],
    ],
    ids=["a long mate", "both short", "padding across the border"],
)
def test_every_text_is_read_as_it_is_alone(asks: list[Expand]) -> None:
    proposer = HuggingFaceProposer(phi3(), tiny.byte_tokenizer())
    guide = HuggingFaceGuide(phi3(), tiny.byte_tokenizer())
    children = [own[0] for own in proposer.propose(asks)]
    each = [proposer.propose([one])[0][0].response_ids for one in asks]
    assert [child.response_ids for child in children] == each
    expected = pytest.approx([plain(guide, child) for child in children], abs=1e-3)
    for part in (proposer, guide):
        assert part.loglikelihood(children) == expected
        assert part.loglikelihood(children[::-1])[::-1] == expected


def test_one_batch_would_change_them() -> None:
    """The control: transformers alone takes the frequencies of the longest text for all."""
    model = phi3()
    ids = torch.arange(10, 20)[None].expand(2, -1)
    places = torch.stack((torch.arange(10), torch.arange(BORDER, BORDER + 10)))
    with torch.inference_mode():
        alone = model(ids[:1], use_cache=False).logits[0]
        beside = model(ids, position_ids=places, use_cache=False).logits[0]
    assert not torch.allclose(alone, beside, atol=0.1)


def test_an_answer_across_the_border_is_refused() -> None:
    for text, most in ((SHORT, BORDER), (LONG, 100)):
        llm = W2SLLM(
            proposer=HuggingFaceProposer(phi3(), tiny.byte_tokenizer()),
            strategy=Sampling(), seed=0, max_tokens=most,
        )  # fmt: skip
        if text is LONG:
            assert isinstance(llm.invoke(text), str)
            continue
        with pytest.raises(PromptError, match=r"beyond 32 tokens.*LongRoPE.*lower max_tokens"):
            llm.invoke(text)
        assert isinstance(llm.bind(max_tokens=8).invoke(text), str)
    guide = HuggingFaceGuide(phi3(), tiny.byte_tokenizer())
    with pytest.raises(PromptError, match="LongRoPE"):
        guide.loglikelihood([Hypothesis.root(SHORT).extend(LONG)])
