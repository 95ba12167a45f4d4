"""What the same work costs with transformers alone: the floors of the benchmark.

Each floor does only what nobody can do without: sample the tokens, and read the new ones with the
guides, with caches that are perfect. Prompts of the guides are read outside the measured time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}

_CACHE = (  # transformers 5.24 renamed it
    "cache"
    if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters
    else "past_key_values"
)


def forward(model: Any, ids: Tensor, cache: DynamicCache, **options: Any) -> Tensor:
    """Logits after a forward pass that fills ``cache``."""
    return model(input_ids=ids, use_cache=True, **{_CACHE: cache}, **options).logits


@dataclass(frozen=True, slots=True)
class Models:
    """The proposer and its two guides, as transformers has them; one vocabulary."""

    proposer: Any
    tuned: Any
    untuned: Any


@torch.inference_mode()
def generate(model: Any, ids: Tensor, new: int) -> Tensor:
    """``generate`` of exactly ``new`` tokens. [B, P] -> [B, P + new]"""
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        min_new_tokens=new,
        max_new_tokens=new,
        pad_token_id=0,
        **SAMPLING,
    )


@torch.inference_mode()
def prefilled(model: Any, ids: Tensor) -> DynamicCache:
    """A cache that has read ``ids``. [B, P]"""
    cache = DynamicCache(config=model.config)
    forward(model, ids, cache, logits_to_keep=1)
    return cache


@torch.inference_mode()
def read(model: Any, cache: DynamicCache, new: Tensor, chunk: int) -> None:
    """Read new tokens chunk by chunk, with logits, as a scorer has to. [B, N]"""
    for begin in range(0, new.shape[1], chunk):
        own = new[:, begin : begin + chunk]
        forward(model, own, cache).logsumexp(-1)


def guided(
    models: Models, prompts: Sequence[Sequence[int]], rows: int, chunk: int, new: int, batch: int
) -> Callable[[], None]:
    """F1 and F3: ``generate`` of ``rows`` per prompt, and both guides over the new tokens.

    Args:
        models: Proposer and guides.
        prompts: Token ids, all of one length P.
        rows: Sequences per prompt (W*K); the prompt is repeated, as ``generate`` has it.
        chunk: Tokens that a guide reads at once (L).
        new: New tokens of each sequence (N).
        batch: Sequences that ``generate`` runs at once.

    Returns:
        What is to be timed. The guides' prompts are read already.
    """
    repeated = torch.tensor([list(ids) for ids in prompts for _ in range(rows)])  # [B, P]
    parts = [repeated[at : at + batch] for at in range(0, len(repeated), batch)]
    caches = [
        (guide, prefilled(guide, part))
        for part in parts
        for guide in (models.tuned, models.untuned)
    ]
    known = iter(caches)

    def run() -> None:
        for part in parts:
            out = generate(models.proposer, part, new)[:, part.shape[1] :]
            for _ in range(2):
                guide, cache = next(known)
                read(guide, cache, out, chunk)

    return run


def emulated(models: Models, prompts: Sequence[Sequence[int]], new: int) -> Callable[[], None]:
    """F2: three models with caches, one token at a time, for emulated fine-tuning.

    Args:
        models: Proposer and guides.
        prompts: Token ids, all of one length; answered together.
        new: New tokens of each.
    """
    ids = torch.tensor([list(own) for own in prompts])

    @torch.inference_mode()
    def run() -> None:
        trio = (models.proposer, models.tuned, models.untuned)
        caches = [DynamicCache(config=model.config) for model in trio]
        step = ids
        for _ in range(new):
            base, tuned, untuned = (
                forward(model, step, cache, logits_to_keep=1)[:, -1]
                for model, cache in zip(trio, caches, strict=True)
            )
            steered = base + tuned.log_softmax(-1) - untuned.log_softmax(-1)
            step = torch.multinomial((steered / SAMPLING["temperature"]).softmax(-1), 1)

    return run
