"""Work on tables of logits that does not copy them whole."""

from __future__ import annotations

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
