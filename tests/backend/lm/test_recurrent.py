"""Layers with one state for all that they have read: exact, where siblings fork as well."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from tests.helpers import tiny
from tests.helpers.plain import (
    BEAM,
    FOREIGN,
    SIZES,
    STRATEGIES,
    batched,
    family,
    generated,
    guided,
    searched,
)
from w2s_chains import EmulatedFineTuning, HuggingFaceGuide, Hypothesis
from w2s_chains.backend.kv.batch import Batch
from w2s_chains.backend.lm.causal_lm import CausalLM
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
PROMPTS = ("The movie was great, and so on", "A prompt", "A")
FEW = ["mamba2", "qwen3_next", "falcon_h1"]


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
    [("falcon_h1", True, STRATEGIES), ("qwen3_next", False, FOREIGN), ("mamba2", False, [BEAM])],
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


def test_a_cache_of_its_own_is_refused() -> None:
    config = AutoConfig.for_model("minimax", **SIZES, layer_types=["linear_attention"] * 2)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match="cannot fill the cache"):
        CausalLM(model)
