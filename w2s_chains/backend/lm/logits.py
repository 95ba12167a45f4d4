"""Work on tables of logits that does not copy them whole."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

_TILE = 2**17
"""Logits that one operation on the CPU gets: larger temporary tensors go back to the system after
every operation, and come back page by page, which takes two to four times as long."""


def tiles(logits: Tensor) -> list[slice]:
    """Rows of a table [R, V] that are worked on at once, where an operation needs copies of it."""
    rows = max(1, _TILE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    return [slice(at, at + rows) for at in range(0, len(logits), rows)]


def log_softmax_at(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of some tokens, in nats: [R, V] at [R, n] gives [R, n]."""
    ids = ids.to(logits.device)
    parts = [logits[part].log_softmax(1).gather(1, ids[part]) for part in tiles(logits)]
    return torch.cat(parts) if parts else logits.new_zeros(ids.shape)


def to_lists(table: Any) -> Any:
    """The numbers of a tensor as nested lists; waits for the device."""
    return table.tolist()


def _mix(x: Tensor) -> Tensor:
    """A bijective hash of int32 in place (the "lowbias32" mixer; shifts are made logical)."""
    x ^= (x >> 16) & 0xFFFF
    x *= 0x21F0AAAD
    x ^= (x >> 15) & 0x1FFFF
    x *= 0xD35A2D97 - 2**32
    x ^= (x >> 15) & 0x1FFFF
    return x


@functools.lru_cache(maxsize=8)
def _tokens(vocabulary: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(vocabulary, dtype=torch.int32, device=device))


def log_exponential(keys: Tensor, vocabulary: int) -> Tensor:
    """Logarithm of standard exponential noise for every token of the vocabulary.

    ``argmax(logits - log_exponential)`` is a sample from softmax(logits) (Gumbel-max trick).

    Args:
        keys: Two words per row from ``noise_key``. [B, 2], int32
        vocabulary: Size V.

    Returns:
        [B, V], float32
    """
    x = _tokens(vocabulary, keys.device)[None, :] ^ keys[:, :1]
    x *= keys[:, 1:] | 1
    x = _mix(x)
    # -u, with u uniform in (0, 1). Small values keep all 31 bits: there -log1p(-u) ~ u, and they
    # decide. The largest round to 1, whose logarithm is infinite: such a token never wins.
    minus = (x & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(-(2.0**-31))
    return minus.log1p_().neg_().log_()
