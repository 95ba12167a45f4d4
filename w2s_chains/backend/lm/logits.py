"""Tables of logits, read without large temporary copies, and the noise that samples from them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TILE = 2**17
"""Most logits that one operation on the CPU gets. The allocator returns larger temporary tensors
to the system after every operation and gets them back page by page, which takes two to four times
as long."""


def tiles(logits: Tensor, rows: int | None = None) -> list[slice]:
    """Cut the rows of a table [R, V] into slices, for operations that need copies of them.

    Args:
        logits: The table.
        rows: The number of rows, if it is another one than the table's.
    """
    count = len(logits) if rows is None else rows
    size = max(1, _TILE // logits.shape[1]) if logits.device.type == "cpu" else max(1, count)
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


def log_softmax_at(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, in nats: [R, V] at [R, n] gives [R, n]."""
    ids = ids.to(logits.device)
    return torch.cat([logits[part].log_softmax(1).gather(1, ids[part]) for part in tiles(logits)])


def no_numbers(model: str, dtype: torch.dtype) -> str:
    """Return the message of an error about a model's logits that are NaN or infinite."""
    return (
        f"model {model!r} in {str(dtype).removeprefix('torch.')} gives logits that are no numbers "
        "(NaN or inf); load it in another dtype (bfloat16 or float32), and if that does not help "
        "use an undamaged checkpoint"
    )


def to_lists(table: Any) -> Any:
    """Return the numbers of a tensor as nested lists; waits for the device."""
    return table.tolist()


def read_chosen(ids: Sequence[Tensor], tables: Sequence[Tensor]) -> tuple[Any, Any]:
    """Return the tokens and numbers of several steps as nested lists, with one wait.

    Args:
        ids: The tokens of each step. [S]
        tables: Numbers of each step, in float32. [T, S]

    Returns:
        Tokens [S, steps] and numbers [T, S, steps].
    """
    numbers = torch.stack([own.view(torch.int32) for own in tables], dim=-1)
    tokens = torch.stack([own.to(torch.int32) for own in ids], dim=-1)
    both = torch.cat((tokens[None], numbers)).cpu().numpy()
    return both[0].tolist(), both[1:].view(np.float32).tolist()


def _mix(x: Tensor) -> Tensor:
    """Hash int32 in place, bijectively (the "lowbias32" mixer; masks make the shifts logical)."""
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
    """Return the logarithm of standard exponential noise for every token of the vocabulary.

    ``argmax(logits - log_exponential)`` is a sample from softmax(logits) (Gumbel-max trick).

    Args:
        keys: Two words per row from ``noise_key``. [B, 2], int32
        vocabulary: The vocabulary's size V.

    Returns:
        [B, V], float32
    """
    x = _tokens(vocabulary, keys.device)[None, :] ^ keys[:, :1]
    x *= keys[:, 1:] | 1
    x = _mix(x)
    # -u, with u uniform in (0, 1). Small u decide who wins, and keep all 31 bits, because there
    # -log1p(-u) ~ u. The largest u round to 1, which gives infinite noise: such a token never wins.
    minus = (x & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(-(2.0**-31))
    return minus.log1p_().neg_().log_()
