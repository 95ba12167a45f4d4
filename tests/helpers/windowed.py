"""Tiny models of families whose layers see a window or a chunk of the text."""

from __future__ import annotations

from typing import Any

from tests.helpers.plain import family

WINDOW = 12
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
PARTLY = {"use_sliding_window": True, "max_window_layers": 1}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {}, "mixtral": EXPERTS, "ministral": {}, "starcoder2": {}, "phi3": {},
    "qwen2": PARTLY, "qwen3": PARTLY, "gemma2": MIXED, "gemma3": MIXED, "vaultgemma": MIXED,
    "gpt_oss": {**MIXED, **EXPERTS}, "olmo3": MIXED, "cohere2": MIXED, "exaone4": MIXED,
    "smollm3": {"use_sliding_window": True, **MIXED}, "exaone_moe": {}, "granite_swa": {},
    "cwm": MIXED,
    "llama4": {
        **EXPERTS, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 64,
        "layer_types": ["chunked_attention", "full_attention"], "num_experts_per_tok": 1,
    },
}  # fmt: skip
LONG = "The movie was great and the plot was thin, but the acting was so good that nobody cared"
PROMPTS = (LONG, "A prompt of a few tokens more than those", "A")


def build(kind: str, seed: int = 0, **options: Any) -> Any:
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": WINDOW}
    return family(kind, seed, **{**sizes, **FAMILIES[kind], **options})
