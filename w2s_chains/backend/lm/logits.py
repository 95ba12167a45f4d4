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
    """Hash int32 in place, bijectively (the "lowbias32" mixer)."""
    x ^= _shifted(x, 16)
    x *= 0x21F0AAAD
    x ^= _shifted(x, 15)
    x *= 0xD35A2D97 - 2**32
    x ^= _shifted(x, 15)
    return x


def _shifted(x: Tensor, count: int) -> Tensor:
    high = x >> count
    high &= (1 << (32 - count)) - 1  # a logical shift
    return high


@functools.lru_cache(maxsize=8)
def _tokens(vocabulary: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(vocabulary, dtype=torch.int32, device=device))


def _bits(keys: Tensor, tokens: Tensor) -> Tensor:
    """Return 31 random bits for every key and token (of ``_tokens``): [B, n], int32."""
    x = tokens[None, :] ^ keys[:, :1]
    x *= keys[:, 1:] | 1
    x = _mix(x)
    x &= 0x7FFFFFFF
    return x


def _log_exponential(bits: Tensor) -> Tensor:
    # -u, with u uniform in (0, 1). Small u decide who wins, and keep all 31 bits, because there
    # -log1p(-u) ~ u. The largest u round to 1, which gives infinite noise: such a token never wins.
    minus = bits.to(torch.float32).add_(0.5).mul_(-(2.0**-31))
    return minus.log1p_().neg_().log_()


def log_exponential(keys: Tensor, vocabulary: int) -> Tensor:
    """Return the logarithm of standard exponential noise for every token of the vocabulary.

    ``argmax(logits - log_exponential)`` is a sample from softmax(logits) (Gumbel-max trick).

    Args:
        keys: Two words per row from ``noise_key``. [B, 2], int32
        vocabulary: The vocabulary's size V.

    Returns:
        [B, V], float32
    """
    return _log_exponential(_bits(keys, _tokens(vocabulary, keys.device)))


_LIKELY = 8.0
"""Tokens that are less likely than the best one by so many nats seldom win."""
_MOST_NOISE = 22.5
"""More nats than noise adds to a logit: the least u is 2^-32."""


def gumbel_argmax(logits: Tensor, keys: Tensor) -> Tensor:
    """Return ``argmax(logits - log_exponential)``, with few logarithms.

    Every winner has at least the score of its best likely token. An unlikely token gets there only
    if its bits are below a limit, which siblings share, and hardly any are.

    Args:
        logits: What siblings are sampled from, on the CPU. [V]
        keys: Their keys. [B, 2], int32

    Returns:
        A token for each sibling. [B]
    """
    words = _tokens(len(logits), keys.device)

    def scores(tokens: Tensor) -> Tensor:
        noise = _log_exponential(_bits(keys, words.index_select(0, tokens)))
        return logits.index_select(0, tokens) - noise

    # Damaged logits (NaN) keep all tokens: no comparison is true of them.
    unlikely = logits < logits.amax() - _LIKELY
    tokens = _where(~unlikely)
    first = scores(tokens)
    least = first.amax(1).min()
    others = _where(unlikely & (logits > least - _MOST_NOISE))
    # Where is logits - log(-log(1 - u)) >= least? The margin is larger than any rounding.
    limit = (logits.index_select(0, others) - least).exp_().neg_().expm1_()
    limit = limit.mul_(-1.0001 * 2.0**31).add_(1).to(torch.int32)
    own = words.index_select(0, others)
    at_once = max(1, _TILE // max(1, len(own)))
    parts = [keys[at : at + at_once] for at in range(0, len(keys), at_once)]
    lowest = torch.stack([_bits(part, own).amin(0) for part in parts]).amin(0)
    able = _where(lowest < limit)
    if len(able):
        tokens = torch.cat((tokens, others.index_select(0, able))).sort().values
        first = scores(tokens)
    return tokens.index_select(0, first.argmax(1))


def _where(mask: Tensor) -> Tensor:
    """Return the places where a mask [n] on the CPU holds; numpy is eight times faster."""
    return torch.as_tensor(np.nonzero(mask.numpy())[0])
