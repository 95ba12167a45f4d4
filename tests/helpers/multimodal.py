"""Tiny random models that also read images, of each kind."""

from __future__ import annotations

from typing import Any

import torch
import transformers

_TEXT: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3,
    "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
_VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
_CLIP = {**_VISION, "model_type": "clip_vision_model"}
_LLAMA = {**_TEXT, "model_type": "llama"}
_MROPE = {
    **_TEXT,
    "rope_parameters": {
        "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0,
    },
}  # fmt: skip
_QWEN_IDS = {
    "image_token_id": 310, "video_token_id": 311, "vision_start_token_id": 312,
    "vision_end_token_id": 313,
}  # fmt: skip
_QWEN_VISION = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2}
_QWEN_OUT = {**_QWEN_VISION, "intermediate_size": 32, "out_hidden_size": 32}
_LINEAR = {
    **_TEXT, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

_FIELDS: dict[str, dict[str, Any]] = {
    "Gemma3": {
        "text_config": {**_TEXT, "sliding_window": 12}, "vision_config": _VISION,
        "mm_tokens_per_image": 4, "image_token_index": 310,
    },
    "Llama4": {
        "text_config": {
            **_TEXT, "num_local_experts": 2, "intermediate_size_mlp": 64,
            "attention_chunk_size": 12,
        },
        "vision_config": {
            **_VISION, "vision_output_dim": 32, "projector_input_dim": 32,
            "projector_output_dim": 32,
        },
        "image_token_index": 310,
    },
    "Qwen2VL": {"text_config": _MROPE, "vision_config": _QWEN_VISION, **_QWEN_IDS},
    "Qwen2_5_VL": {"text_config": _MROPE, "vision_config": _QWEN_OUT, **_QWEN_IDS},
    "Qwen3VL": {
        "text_config": _MROPE, "vision_config": {**_QWEN_OUT, "deepstack_visual_indexes": [0]},
        **_QWEN_IDS,
    },
    "Qwen3_5": {"text_config": _LINEAR, "vision_config": _QWEN_OUT, **_QWEN_IDS},
    "Qwen3VLMoe": {
        "text_config": {
            **_MROPE, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2,
        },
        "vision_config": {**_QWEN_OUT, "deepstack_visual_indexes": [0]}, **_QWEN_IDS,
    },
    "Mistral3": {
        "text_config": {**_TEXT, "model_type": "mistral"},
        "vision_config": {**_VISION, "head_dim": 8, "model_type": "pixtral"},
        "image_token_index": 310,
    },
    "SmolVLM": {"text_config": _LLAMA, "vision_config": _VISION, "image_token_id": 310},
    "Aria": {
        "text_config": {
            **_TEXT, "moe_num_experts": 2, "moe_topk": 1, "moe_num_shared_experts": 1,
        },
        "vision_config": {**_VISION, "model_type": "idefics3_vision"}, "image_token_index": 310,
        "projector_patch_to_query_dict": {4: 4},
    },
    "Llava": {"text_config": _LLAMA, "vision_config": _CLIP, "image_token_index": 310},
    "LlavaNext": {"text_config": _LLAMA, "vision_config": _CLIP, "image_token_index": 310},
    "LlavaOnevision": {
        "text_config": _LLAMA, "vision_config": _CLIP, "image_token_index": 310,
        "video_token_index": 311,
    },
    "Idefics3": {"text_config": _LLAMA, "vision_config": _VISION, "image_token_id": 310},
    "AyaVision": {
        "text_config": {**_TEXT, "model_type": "cohere2", "sliding_window": 12},
        "vision_config": {**_VISION, "model_type": "siglip_vision_model"},
        "image_token_index": 310,
    },
    "Lfm2Vl": {
        "text_config": {
            **_TEXT, "model_type": "lfm2", "layer_types": ["conv", "full_attention"],
        },
        "vision_config": {**_VISION, "model_type": "siglip2_vision_model", "num_patches": 4},
        "image_token_id": 310,
    },
    "Qwen2Audio": {
        "text_config": {**_TEXT, "model_type": "qwen2"},
        "audio_config": {
            "model_type": "qwen2_audio_encoder", "d_model": 16, "encoder_layers": 1,
            "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "num_mel_bins": 16,
            "max_source_positions": 20,
        },
        "audio_token_index": 310,
    },
    "PaliGemma": {
        "text_config": {**_TEXT, "model_type": "gemma"},
        "vision_config": {**_VISION, "model_type": "siglip_vision_model", "projection_dim": 32},
        "projection_dim": 32, "image_token_index": 310,
    },
    "InternVL": {"text_config": {**_TEXT, "model_type": "qwen2"}, "image_token_id": 310,
        "vision_config": {**_VISION, "image_size": [28, 28], "patch_size": [14, 14]}},
}  # fmt: skip

KINDS = list(_FIELDS)


def tiny(kind: str) -> Any:
    """Make a tiny random model of a kind: the whole of it, with weights of a large scale."""
    config = getattr(transformers, f"{kind}Config")(**_FIELDS[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
        for weight in whole.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    return whole
