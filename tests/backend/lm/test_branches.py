"""Siblings share one copy of their past, and know nothing of each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.helpers import tiny
from w2s_chains import HuggingFaceGuide, Hypothesis
from w2s_chains.backend.kv.batch import Batch, best_width
from w2s_chains.backend.lm.attention import grouped_attention
from w2s_chains.backend.lm.causal_lm import CausalLM


@torch.inference_mode()
def branch_by_branch(model: CausalLM, ids: torch.Tensor, width: int) -> torch.Tensor:
    """Logits after the last token of every branch, fed one column at a time."""
    rows, steps = ids.shape[0] // width, ids.shape[1]
    batch = model.gather([(None, 0)] * rows, width=width, steps=steps)
    model.forward(batch, ids[::width, :1])
    for step in range(1, steps):
        logits = model.forward(batch, ids[:, step].view(rows, width))
    return logits.flatten(0, 1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2], ids=["rope", "absolute"])
def test_a_branch_equals_its_path_alone(make, attention, monkeypatch):
    network = make(320)
    network.set_attn_implementation(attention)
    model = CausalLM(network)
    assert model.can_branch
    ids = torch.randint(4, 300, (12, 5), generator=torch.Generator().manual_seed(1))
    ids[:, 0] = ids[:, 0].view(2, 6)[:, :1].expand(2, 6).flatten()  # siblings share a token
    with torch.inference_mode():
        expected = network(ids).logits[:, -1]
    for width in (1, 2, 3, 6):
        logits = branch_by_branch(model, ids, width)
        assert torch.allclose(logits, expected, atol=1e-3 * expected.abs().max())
    # The control: siblings that see each other.
    seen: Any = Batch.attention_mask
    monkeypatch.setattr(Batch, "attention_mask", lambda self, n: seen(self, n) * 0)
    logits = branch_by_branch(model, ids, 3)
    assert not torch.allclose(logits, expected, atol=1e-2 * expected.abs().max())


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("boolean", [False, True])
def test_folded_heads_attend_like_transformers(count, boolean):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, count, 8, generator=generator)
    key, value = torch.randn(2, 2, 2, 7, 8, generator=generator)
    visible = torch.rand(2, 1, count, 7, generator=generator) > 0.3
    visible[..., 0] = True
    mask = visible if boolean else torch.zeros(visible.shape).masked_fill_(~visible, -1e30)
    module: Any = torch.nn.Module()
    module.num_key_value_groups = 3
    ours, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    theirs, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    assert torch.allclose(ours, theirs, atol=1e-5)
    control, _ = grouped_attention(module, query.flip(1), key, value, mask, scaling=0.3)
    assert not torch.allclose(control, theirs, atol=1e-2)


def test_the_users_model_is_left_as_it_was():
    network = tiny.llama(320)
    before = network.config._attn_implementation
    CausalLM(network)
    assert network.config._attn_implementation == before == "sdpa"


def test_a_model_without_positions_gets_one_branch_per_row():
    network = tiny.bloom()
    guide = HuggingFaceGuide(network, tiny.byte_tokenizer())
    assert not guide.lm.can_branch
    root = Hypothesis.root("The movie")
    children = [root.extend(text) for text in (" was great", " was", " bored me to death")]
    values = guide.loglikelihood(children)
    for child, value in zip(children, values, strict=True):
        ids = guide.tokenizer.ids_with_response(child.prompt, child.response)
        first = len(guide.tokenizer.prompt_ids(child.prompt))
        with torch.inference_mode():
            table = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = sum(table[i - 1, ids[i]].item() for i in range(first, len(ids)))
        assert value == pytest.approx(expected, abs=1e-3)


@example(sizes=[1], steps=1, past=0)
@example(sizes=[2], steps=40, past=0)
@example(sizes=[5], steps=13, past=0)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    steps=st.integers(1, 64),
    past=st.integers(0, 500),
)
def test_the_best_width_reads_fewest_tokens(sizes, steps, past):
    def tokens(width: int) -> int:
        return sum(-(-size // width) for size in sizes) * (1 + width * (steps - 1))

    best = best_width(sizes, steps, past)
    assert 1 <= best <= max(sizes)
    assert best * steps <= max(64, past) or best == 1, "siblings do not flood attention"
    for width in range(1, max(sizes) + 1):
        if width * steps <= max(64, past):
            assert (tokens(best), -best) <= (tokens(width), -width), "the widest of the best"
    assert best_width([4, 4, 4], 10, 30) == 4
    assert best_width([16], 10, 30) == 4
    assert best_width([16], 10, 300) == 16
    assert best_width([4, 3, 1], 10, 30) == 1, "padding would cost more than it saves"
