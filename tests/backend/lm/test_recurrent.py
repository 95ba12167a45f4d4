"""Layers with one state for all that they have read: exact, where siblings fork as well."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import tiny
from tests.helpers.plain import (
    BEAM,
    FOREIGN,
    STRATEGIES,
    batched,
    family,
    generated,
    guided,
    searched,
)
from w2s_chains import EmulatedFineTuning, HuggingFaceGuide, Hypothesis
from w2s_chains.backend.kv.batch import Batch
from w2s_chains.backend.kv.own_states import OwnLayers
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.reading import Reading, read
from w2s_chains.errors import UnsupportedModelError

GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
MAMBA2 = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
}  # fmt: skip
DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "qwen3_next": {**GROUPED, **DELTA, **EXPERTS},
    "qwen3_5_text": {**GROUPED, **DELTA},
    "falcon_h1": {**GROUPED, **MAMBA2, "mamba_d_ssm": 64},
    "bamba": {**GROUPED, **MAMBA2, "attn_layer_indices": [1]},
    "granitemoehybrid": {
        **GROUPED, **MAMBA2, "layer_types": ["mamba", "attention"], "num_local_experts": 4,
        "num_experts_per_tok": 2, "shared_intermediate_size": 32,
    },
    "lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
    "olmo_hybrid": GROUPED,
    "jamba": {
        **GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2,
        "num_experts_per_tok": 1, "mamba_d_state": 8, "mamba_dt_rank": 4,
    },
    "zamba": {
        "num_hidden_layers": 4, "num_key_value_heads": 4, "mamba_d_state": 8, "mamba_dt_rank": 4,
        "n_mamba_heads": 2, "attention_hidden_size": 64, "attention_head_dim": 16,
        "layer_types": ["linear_attention", "hybrid"] * 2,
    },
    # With a smallest time step transformers clamps whole texts, but no single tokens.
    "nemotron_h": {
        **GROUPED, "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1,
        "layers_block_type": ["mamba", "attention"], "time_step_min": 1e-12,
    },
    "zamba2": {
        "num_hidden_layers": 4, "num_key_value_heads": 4, "mamba_d_state": 8, "n_mamba_heads": 8,
        "mamba_headdim": 8, "mamba_ngroups": 1, "attention_hidden_size": 64,
        "attention_head_dim": 16, "adapter_rank": 4, "num_mem_blocks": 1,
        "layer_types": ["linear_attention", "hybrid"] * 2, "hybrid_layer_ids": [1, 3],
        "time_step_min": 1e-12,
    },
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    # These keep their states in ways of their own.
    "rwkv": {},
    "xlstm": {"hidden_size": 64, "num_heads": 4, "qk_dim_factor": 1.0},
    "minimax": {
        **GROUPED, "layer_types": ["linear_attention", "full_attention"], "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3, "num_key_value_heads": 1, "head_dim": 8, "lru_width": 32,
    },
}  # fmt: skip
FAMILIES |= OWN
PROMPTS = ("The movie was great, and so on", "A prompt", "A")
FEW = ["mamba2", "qwen3_next", "falcon_h1", *OWN]


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    return family(kind, seed, **{**FAMILIES[kind], **options})


@pytest.mark.parametrize("kind", FAMILIES)
def test_states_fork_where_branches_do(kind: str) -> None:
    model = build(kind)
    lm = CausalLM(model)
    assert lm.recurrent
    assert not lm.can_branch
    searched(model, PROMPTS)


def test_branches_that_share_a_state_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: a state that is not kept apart is noticed at load."""
    monkeypatch.setattr(Batch, "_states", lambda batch, paths: [None] * len(paths))
    with pytest.raises(UnsupportedModelError, match="incremental reading"):
        CausalLM(build("mamba2"))


@pytest.mark.parametrize(
    ("kind", "same", "strategies"),
    [
        *(("falcon_h1", True, STRATEGIES), ("qwen3_next", False, FOREIGN)),
        *((kind, False, [BEAM]) for kind in ("mamba2", *OWN)),
    ],
)
def test_a_batch_is_its_single_calls(kind: str, same: bool, strategies: Any) -> None:
    def make() -> Any:
        return guided(lambda seed, **options: build(kind, seed, **options), same)

    batched(make, PROMPTS, strategies)


@pytest.mark.parametrize("kind", FEW)
def test_greedy_text_is_that_of_generate(kind: str) -> None:
    generated(build(kind), PROMPTS)


def test_a_text_that_leaves_another_in_its_middle_is_read_again() -> None:
    """Texts of another vocabulary share only the beginning of what was read before."""
    guide = HuggingFaceGuide(build("falcon_h1"), tiny.byte_tokenizer())
    root = Hypothesis.root("The movie was")
    written = [root.extend(text) for text in (" great and so on", " great and bad", " greater")]
    for h in [*written, *(h.extend(" it seems") for h in written)]:
        [found] = guide.loglikelihood([h])
        whole = Hypothesis.root("The movie was").extend(h.response)
        fresh = HuggingFaceGuide(guide.lm.model, tiny.byte_tokenizer())
        assert found == pytest.approx(fresh.loglikelihood([whole])[0], abs=1e-3)


def test_drafts_that_are_refused_leave_no_trace() -> None:
    def ask(drafts: int) -> list[str]:
        llm = guided(lambda seed, **options: build("falcon_h1", seed, **options))
        strategy = EmulatedFineTuning(beta=0.5, draft_tokens=drafts)
        return llm.batch([*PROMPTS], strategy=strategy, temperature=0)

    assert ask(3) == ask(0)


def test_what_is_read_once_is_not_read_again() -> None:
    """A chunk goes on from the state at its end: as many tokens as a model of attention reads."""
    llm = guided(lambda seed, **options: build("mamba2", seed, **options))
    llm.invoke(PROMPTS[0], strategy=BEAM)
    scorer: Any = llm.scorer
    parts: list[Any] = [llm.proposer, scorer.pair.tuned, scorer.pair.untuned]
    prompt = len(parts[0].tokenizer.prompt_ids(Hypothesis.root(PROMPTS[0]).prompt))
    for part in parts:
        assert part.lm.counters.tokens_read <= prompt + 6 * 14 + 6


@pytest.mark.parametrize("kind", OWN)
def test_a_model_whose_states_are_its_own_stays_itself(kind: str) -> None:
    """Copies of it read with their own weights, and transformers goes on using it as before."""
    model, other = build(kind), build(kind, seed=1)
    ids = torch.tensor([[5, 9, 13, 7]])
    with torch.inference_mode():
        plain = [own(input_ids=ids).logits for own in (model, other)]
    assert CausalLM(model).recurrent
    copied = copy.deepcopy(model)
    copied.load_state_dict(other.state_dict())
    assert CausalLM(copied).recurrent
    assert isinstance(model, type(other))
    with torch.inference_mode():
        for own, wanted in zip((model, copied), plain, strict=True):
            torch.testing.assert_close(own(input_ids=ids).logits, wanted)
    searched(copied, PROMPTS[1:])


@pytest.mark.parametrize("kind", OWN)
def test_states_that_are_not_given_back_to_a_model_are_noticed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control."""
    monkeypatch.setattr(OwnLayers, "state", lambda own, *_: tuple(p.empty for p in own.parts))
    with pytest.raises(UnsupportedModelError, match="incremental reading"):
        CausalLM(build(kind))


def likely(lm: CausalLM, segment: Segment) -> list[float]:
    """The log-probabilities of a segment's tokens by one forward."""
    ids = segment.path_ids()
    with torch.inference_mode():
        table = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
    return [table[i - 1, ids[i]].item() for i in range(segment.start, segment.end)]


def score(lm: CausalLM, *segments: Segment) -> int:
    """Read segments, and check their log-probabilities; return how many tokens that took."""
    lm.counters.tokens_read = 0
    read(lm, [Reading(segment=own, scored=True) for own in segments])
    for own in segments:
        assert own.logprobs == pytest.approx(likely(lm, own), abs=1e-3)
    return lm.counters.tokens_read


@pytest.mark.parametrize("kind", ["mamba2", "falcon_h1"])
def test_what_is_read_again_and_what_is_kept(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = CausalLM(build(kind))
    calls: list[tuple[Any, ...]] = []
    gather = lm._gather

    def watched(paths: Any, adapters: Any, *, width: int, steps: int) -> Batch:
        calls.append(([upto for _, upto in paths], adapters, width, steps))
        return gather(paths, adapters, width=width, steps=steps)

    monkeypatch.setattr(lm, "_gather", watched)
    roots = [Segment(None, 0, range(5, 5 + n)) for n in (7, 7, 4)]
    lm.counters.tokens_read = 0
    read(lm, [Reading(segment=root, scored=False) for root in roots])
    assert lm.counters.tokens_read == 6 + 6 + 3
    assert calls == [([0, 0], [None, None], 1, 6), ([0], [None], 1, 3)], "no padding"
    assert [[*root.states] for root in roots] == [[6], [6], [3]]
    child = Segment(roots[0], 7, (30, 31, 32, 33))
    other = Segment(roots[2], 4, (34, 35, 36, 37, 38))
    assert score(lm, child, other) == 4 + 5, "each with the token before it"
    assert [[*own.states] for own in (child, other)] == [[10], [8]]
    # Both go on after two tokens that were read, but whose state was not kept.
    leaves = [Segment(child, 9, (40,)), Segment(other, 6, (41,))]
    calls.clear()
    assert score(lm, *leaves) == 2 * 2 + 2
    assert calls == [([3, 6], [None, None], 1, 2), ([5, 8], [None, None], 1, 1)]
    assert [[*own.states] for own in (child, other, *leaves)] == [[10, 8], [8, 5], [9], [6]]
    assert score(lm, Segment(child, 9, (42, 43)), Segment(other, 6, (44, 45))) == 2 * 2, "kept"
    # Each row is read again by its own adapter, those of a view by the view's.
    calls.clear()
    monkeypatch.setattr(lm.adapters, "rows", lambda names: contextlib.nullcontext())
    again, lm.adapter = Segment(child, 8, (46,)), "tuned"
    lm.gather([(again, 7), (other, 4)], width=1, steps=1, adapters=[None, "other"])
    lm.gather([(other, 6)], width=2, steps=3)
    assert calls[:2] == [([6, 3], [None, "other"], 1, 1), ([7, 4], [None, "other"], 1, 1)]
    assert calls[2:] == [([5], ["tuned"], 1, 1), ([6], ["tuned"], 2, 3)]


def test_several_tokens_after_a_state_are_read_one_by_one() -> None:
    lm = CausalLM(build("mamba2"))
    root = Segment(None, 0, range(5, 12))
    read(lm, [Reading(segment=root, scored=False)])
    ids = torch.tensor([[11, 30]])
    found: list[Tensor] = []
    for last_only in (False, True):
        batch = lm.gather([(root, 6)], width=1, steps=2)
        lm.counters.forwards = lm.counters.tokens_read = 0
        with torch.inference_mode():
            found.append(lm.forward(batch, ids, last_only=last_only))
        assert (lm.counters.forwards, lm.counters.tokens_read, batch.filled) == (2, 2, 8)
    with torch.inference_mode():
        plain = lm.model(input_ids=torch.tensor([[*range(5, 11), *ids[0]]])).logits[0, 6:]
    assert torch.allclose(found[0][0], plain, atol=1e-3)
    assert torch.equal(found[1], found[0][:, -1:])


def test_what_is_read_again_makes_the_logits_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = CausalLM(build("mamba2"))
    root = Segment(None, 0, range(5, 12))
    read(lm, [Reading(segment=root, scored=False)])
    shapes: list[tuple[int, ...]] = []
    forward = lm.forward

    def watched(*args: Any, **options: Any) -> Tensor:
        logits = forward(*args, **options)
        shapes.append((*logits.shape,))
        return logits

    monkeypatch.setattr(lm, "forward", watched)
    with torch.inference_mode():
        lm.gather([(root, 4)], width=1, steps=1)
    assert shapes == [(1, 1, 320)]
    assert [*root.states] == [6, 4]
