"""Make a LoRA to play with: the change that tuning made to a small guide, cut to a low rank."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.backend.loading.locate import without_bars


def write_lora(folder: Path, rank: int = 16) -> None:
    """Write the adapter of this rank that brings ``reviews-untuned`` nearest ``reviews-tuned``.

    Args:
        folder: The folder to write to.
        rank: The adapter's rank.
    """
    load = cast(Any, AutoModelForCausalLM).from_pretrained  # it is only partly typed
    with without_bars():
        tuned, base = (
            load(embedded_path(name), dtype=torch.float32)
            for name in ("reviews-tuned", "reviews-untuned")
        )
    with warnings.catch_warnings():  # peft reads what transformers is about to rename
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted: Any = get_peft_model(
            base, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear")
        )
    wanted: dict[str, Any] = dict(tuned.named_modules())
    for name, layer in adapted.base_model.model.named_modules():
        if hasattr(layer, "lora_A"):
            change = (wanted[name].weight - layer.base_layer.weight).detach()
            left, sizes, right = cast(Any, torch.linalg).svd(change, full_matrices=False)
            layer.lora_B["default"].weight.data = left[:, :rank] * sizes[:rank]
            layer.lora_A["default"].weight.data = right[:rank]
    adapted.save_pretrained(folder)
