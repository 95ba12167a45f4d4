"""``best_width``: how many branches share a row of a batch."""

from __future__ import annotations

from collections.abc import Iterable

_STRANGERS = 64
"""Sibling columns that may lie, masked, in a branch's attention, however short its past. They cost
little as long as they do not greatly outnumber the columns that the branch sees."""


def best_width(sizes: Iterable[int], steps: int, past: int) -> int:
    """Choose how many branches a row has, so that as few tokens as possible are read.

    A row of w branches reads 1 + w * (steps - 1) tokens; branches that a row lacks are padding.
    Among equally good widths the widest is taken, since it copies the past least often.

    Args:
        sizes: Number of siblings of each parent.
        steps: Most tokens that a branch reads, the shared one included.
        past: Tokens of the longest path; the longer it is, the more siblings may share it.
    """
    sizes = list(sizes)
    widest = max(1, min(max(sizes), max(_STRANGERS, past) // steps))

    def tokens(width: int) -> int:
        return sum(-(-size // width) for size in sizes) * (1 + width * (steps - 1))

    return min(range(1, widest + 1), key=lambda width: (tokens(width), -width))
