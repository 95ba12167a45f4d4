"""All causal families of the installed transformers, as tiny random models."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 320
WINDOW = 12
"""Tokens of every window and chunk; the texts that are read are longer."""

_MOST = 50_000_000
"""Parameters of a model that is still tiny."""

KINDS: list[str] = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

_RULES: list[tuple[str, Any]] = [
    (r"vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"sliding_window|attention_chunk_size|attention_window_size|window_size|local_window", WINDOW),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|seq_length", 512),
    (r"(max_)?(target|source)_positions", 512),
    (r"num_(key_value|kv)_heads|num_global_key_value_heads|n_head_kv|multi_query_group_num", 2),
    (
        r"index_n_heads",
        32,
    ),  # with few of them many scores are 0, and a choice between equals is any
    (r".*(num_|n_)?heads?(_num)?|n_head", 4),
    (r"(num_|n_)?(hidden_)?layers?|num_(encoder|decoder)_layers|(encoder|decoder)_layers", 2),
    (r"index_topk", 8),
    (r".*(experts_per_tok(en)?|top_?k(_experts)?|router_topk|moe_k)", 2),
    (
        r"(n_group|topk_group|n_groups|mamba_n_groups|mamba_ngroups|num_mem_blocks|n_shared_experts)",
        1,
    ),
    (r".*(experts|routed_experts)", 4),
    (r"hidden_size|n_embd|d_model|dim|embedding_size|word_embed_proj_dim|embed_dim", 32),
    (r".*intermediate_size.*|.*ffn_dim|n_inner|d_ff|ffn_hidden_size|.*_ffn_size|d_inner", 64),
    (r".*head_(dim|size)|d_head|d_kv|rotary_dim|kv_channels", 8),
    (r".*lora_rank|.*low_rank_dim|.*_rank", 8),
    (r".*(state_size|d_state|state_dim)", 8),
    (r"hidden_size_per_layer_input|laurel_rank|altup_num_inputs", 2),
]
_ONCE = {
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
    "init_std": 0.3,
}  # fmt: skip

_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8}
_SHARED = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "intermediate_size": [64] * 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_key_value_heads": 2,
    "activation_sparsity_pattern": [0.0] * 4,
}
_SHARED_4 = {**_SHARED, "intermediate_size": 64}
_INKLING = {"sliding_window_size": WINDOW, "rel_extent": 64, "unpadded_vocab_size": VOCABULARY}
_QWEN4 = {
    "pad_token_id": None,
    "num_key_value_heads": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "hc_lowrank": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "indexer_block_size": 4,
    "ple_embed_dim": 8,
    "ngram_vocab_size_base": 64,
    "split_ngram_parts": 2,
}
# Its embedding would be 0, and so all scores of an indexer, which chooses any of equals.
_NO_PADDING = {"pad_token_id": None}
_DOTS3 = {
    **_NO_PADDING, "num_key_value_heads": 4, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4, "swa_q_lora_rank": 8, "swa_kv_lora_rank": 8, "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8,
}  # fmt: skip
_ENCODER = {"max_position_embeddings": 64, "vocab_size": VOCABULARY}
_OWN: dict[str, dict[str, Any]] = {
    "axk2": _NO_PADDING, "deepseek_v32": _NO_PADDING, "glm_moe_dsa": _NO_PADDING,
    "hy_v4": _NO_PADDING,
    "bamba": {**_MAMBA2, "attn_layer_indices": [1]},
    "bart": _ENCODER, "mbart": _ENCODER, "mvp": _ENCODER, "pegasus": _ENCODER, "marian": _ENCODER,
    "bigbird_pegasus": _ENCODER,
    "blenderbot": {
        "vocab_size": VOCABULARY, "encoder_layers": 1, "encoder_ffn_dim": 64, "ffn_dim": 64,
        "encoder_attention_heads": 4, "d_model": 32,
    },
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0}
            for kind in ("full_attention", "sliding_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dory": {
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"] * 3,
        "num_hidden_layers": 12, "n_input_layers": 4, "n_recurrent_layers": 4, "n_output_layers": 4,
    },
    "dots1": {
        "layer_types": ["full_attention", "sliding_attention"], "n_routed_experts": 4,
        "n_shared_experts": 1, "num_experts_per_tok": 2,
    },
    "dots3_note": _DOTS3, "dots3_note_text": _DOTS3,
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 64},
    "gemma3n": _SHARED, "gemma3n_text": _SHARED, "gemma4": _SHARED_4, "gemma4_text": _SHARED_4,
    "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8, "moe_topk": 2},
    "ministral": {"head_dim": 8},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "minimax_m3_vl_text": {"layer_types": ["full_attention", "minimax_m3_sparse"]},
    "minicpm3": {"scale_emb": 1, "tie_word_embeddings": False},  # or it repeats its last token
    "nemotron": {"num_key_value_heads": 2},
    "inkling2_text": _INKLING, "inkling2_loop_text": _INKLING,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**_MAMBA2, "layer_types": ["mamba", "attention"]},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"], "num_dense_layers": 1,
    },
    "longcat_flash": {
        "expert_ffn_hidden_size": 16, "n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2,
        "qk_head_dim": 16,
    },
    "mamba2": {"num_heads": 8},
    "nemotron_h": {
        "mamba_num_heads": 8, "layers_block_type": ["mamba", "attention"], "time_step_min": 1e-12,
    },
    "plbart": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "qwen4_exp": _QWEN4, "qwen4_exp_text": _QWEN4,
    "xlm": {"emb_dim": 32, "causal": True},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32},
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "reformer": {"is_decoder": True, "attn_layers": ["local"], "axial_pos_embds": False},
    "roc_bert": {
        "pronunciation_vocab_size": 8, "shape_vocab_size": 8, "shape_embed_dim": 16,
        "pronunciation_embed_dim": 16,
    },
    "whisper": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "xlnet": {"d_head": 8},
    "xlstm": {"hidden_size": 64, "num_heads": 4, "qk_dim_factor": 1.0},
    "zamba": {"num_hidden_layers": 4, "layer_types": ["linear_attention", "hybrid"] * 2,
        "num_key_value_heads": 4, "n_mamba_heads": 2, "attention_head_dim": 16,
        "attention_hidden_size": 64,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layer_types": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3], "num_key_value_heads": 4, "n_mamba_heads": 8,
        "mamba_headdim": 8, "attention_head_dim": 16, "attention_hidden_size": 64,
        "time_step_min": 1e-12,
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip
"""What the rules do not find out."""


def tiny(kind: str, seed: int = 0, **options: Any) -> Any:
    """Build a tiny random model of a family, of its text part alone if it has several.

    Args:
        kind: The family's ``model_type``.
        seed: Of its weights.
        **options: Fields of its config.
    """
    fields = {**_fields(kind), **options}
    for name in ("vocab_size_per_layer_input", "unpadded_vocab_size"):
        if name in fields:
            fields[name] = fields["vocab_size"]
    config = type(_config(kind))(**fields)
    own: Any = getattr(transformers, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
    build = own if own.config_class is type(config) else AutoModelForCausalLM.from_config
    with torch.device("meta"):
        size = sum(weight.numel() for weight in build(config).parameters())
    assert size < _MOST, f"the fields of {kind} are not small: {size:,} parameters"
    torch.manual_seed(seed)
    return build(config).float().eval()


@functools.cache
def _config(kind: str) -> Any:
    return AutoConfig.for_model(kind).get_text_config(decoder=True)


@functools.cache
def _fields(kind: str) -> dict[str, Any]:
    """Make the fields of a config small, so that each kind of its layers stays."""
    config = _config(kind)
    given: dict[str, Any] = config.to_dict()
    found: dict[str, Any] = {}
    for name, value in given.items():
        if type(value) is not int:
            continue
        for pattern, small in _RULES:
            if re.fullmatch(pattern, name):
                found[name] = small
                break
    if "kv_lora_rank" in given:  # latent attention has no groups
        found["num_key_value_heads"] = found["num_attention_heads"]
    kinds = [*dict.fromkeys(given.get("layer_types") or ())]
    if kinds:
        found["layer_types"] = kinds * 2 if len(kinds) == 1 else kinds
        found["num_hidden_layers"] = len(found["layer_types"])
    return {**found, **_ONCE, **_OWN.get(kind, {})}
