"""Random numbers that belong to a place in the tree, not to a generator's state.

The noise of a token is a function of (seed, prompt, random stream, number of the token), so neither
batch mates nor micro-batches nor the order of requests change a sample.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def fork(stream: int, *at: int) -> int:
    """A new random stream that branches off ``stream``; 63 bits."""
    return int.from_bytes(_digest(stream, *at), "little") >> 1


def noise_key(*place: object) -> tuple[int, int]:
    """Two int32 words for a place in the tree."""
    digest = _digest(*place)
    return (
        int.from_bytes(digest[:4], "little", signed=True),
        int.from_bytes(digest[4:], "little", signed=True),
    )


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
