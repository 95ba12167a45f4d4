"""``convert_gguf``: write a GGUF file as an ordinary model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

_models = cast(Any, AutoModelForCausalLM)  # they are only partly typed
_tokenizers = cast(Any, AutoTokenizer)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a model of the SmolLM2 family as float32 safetensors with its tokenizer.

    Args:
        gguf: The file that llama.cpp reads.
        folder: The folder to write weights, tokenizer and configs to.
    """
    source: dict[str, Any] = {"gguf_file": gguf.name, "trust_remote_code": False}
    tokenizer = _tokenizers.from_pretrained(gguf.parent, **source)
    # GGUF names its pre-tokenizer ("smollm") and transformers reads only GPT-2's part of it.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    with cast(Any, torch.random).fork_rng(devices=[]):  # new weights must not move the seed
        read = _models.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        config = read.config
        # It forbids saving, and no longer describes the weights.
        del config.quantization_config
        model = _models.from_config(config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(read.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # saved for the owner only; caches get shared
