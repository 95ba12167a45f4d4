"""A toy proposer whose text is a function of random stream and place, as a real one's is."""

from __future__ import annotations

import random
from collections.abc import Callable

from w2s_chains import Expand, Hypothesis


def letters(
    seed: object = 0, alphabet: str = "abcd", end: float = 0.1, limit: int = 12
) -> Callable[[Expand], list[Hypothesis]]:
    """One letter per token; an answer ends after any of them, by ``end``, or has ``limit`` ones."""

    def grown(h: Hypothesis, stream: int, most: int | None) -> Hypothesis:
        text, reason = "", None
        while reason is None and (most is None or len(text) < most):
            at = h.n_tokens + len(text)
            numbers = random.Random(f"{seed}/{stream}/{at}")
            text += numbers.choice(alphabet)
            if numbers.random() < end:
                reason = "eos"
            elif at + 1 == limit:
                reason = "length"
        ids = tuple(map(ord, text))
        return h.extend(text, ids, finish_reason=reason, stream=stream)

    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            grown(h, stream, ask.chunk_tokens) for h in ask.hypotheses for stream in ask.streams(h)
        ]

    return propose


def value(h: Hypothesis) -> float:
    """A score that is another one for every text."""
    return random.Random(f"value/{h.response}/{h.finish_reason}").gauss(0, 1)
