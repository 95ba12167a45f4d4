"""How far choosing takes answers away from what the proposer samples: upper bounds of the KL.

P is the law of one sample of the proposer, with its temperature, filters and steering, and Q the
law of the answers of a search that chooses among such samples.
"""

from __future__ import annotations

import math


def best_of(n: int) -> float:
    """KL(Q || P) <= ln n - (n - 1) / n for the best of n samples, in nats.

    Beirami et al. (2024), "Theoretical guarantees on the best-of-n alignment policy", Theorem 3.1.
    Equal scores do not break it: among them the first sample wins, which is as good as at random,
    and with a random tie-break beside it the bound holds for (answer, tie-break), hence for the
    answer. It is nearly an equality where single answers are improbable.
    """
    return math.log(n) - (n - 1) / n


def chunk_beam(width: int, successors: int, chunks: int) -> float:
    """Upper bound of KL(Q || P) of a chunk beam search, in nats, as a mean over its answers.

    With width 1 every chunk is the best of K samples given the text before it. By the chain rule
    KL(Q || P) <= E[T] (ln K - (K - 1) / K), with T the chunks of an answer. This search is the
    blockwise best-of-K of Mudgal et al. (2024), "Controlled Decoding from Language Models".

    A wider beam looks ahead before it chooses, so that no chunk is a best-of-K. But an answer y
    must be a node of the tree. The first round draws W K chunks, and every kept node, which is kept
    once, K more, so that a node y is drawn W K^T P(y) times on average at most.
    Hence Q(y) <= W K^T P(y), and KL(Q || P) <= ln W + E[T] ln K, whatever the scores are. This is
    loose: it allows for a perfect choice at every step.

    Args:
        width: Beam width W.
        successors: Children K of each hypothesis.
        chunks: Chunks T of the answer.
    """
    if width == 1:
        return chunks * best_of(successors)
    return math.log(width) + chunks * math.log(successors)
