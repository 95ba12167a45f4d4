"""Random numbers that belong to a place in the tree, not to a generator's state.

The noise of a token is a function of (seed, prompt, random stream, number of the token), so neither
batch mates nor micro-batches nor the order of requests change a sample.
"""

from __future__ import annotations

import hashlib


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
