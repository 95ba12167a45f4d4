"""Upper bounds of the KL divergence that selection causes: ``best_of``, ``chunk_beam`` and others.

P is the distribution of one sample of the proposer, with its temperature, filters and steering. Q
is the distribution of the answers of a search that selects among such samples.
"""

from __future__ import annotations

import math


def best_of(n: int) -> float:
    """Bound KL(Q || P) <= ln n - (n - 1) / n for the best of n samples, in nats.

    Beirami et al. (2024), "Theoretical guarantees on the best-of-n alignment policy", Theorem 3.1.
    The bound also holds with equal scores. The first sample wins a tie, which is equivalent to a
    random tie-break since the samples are exchangeable; the bound then holds for the pair (answer,
    tie-break), and hence for the answer. It is nearly tight if every single answer is improbable.
    It holds for any other choice among n samples, too (see ``chunk_beam``), such as one that draws
    or grows only some of them.
    """
    return math.log(n) - (n - 1) / n


def chunk_beam(width: int, successors: int, chunks: int) -> float:
    """Bound KL(Q || P) of a chunk beam search, in nats, as a mean over its answers.

    With width 1, every chunk is the best of K samples given the text before it. By the chain rule,
    KL(Q || P) <= E[T] (ln K - (K - 1) / K), where T is the number of chunks. This search is the
    blockwise best-of-K of Mudgal et al. (2024), "Controlled Decoding from Language Models". The
    bound holds for any other choice among K samples, too, such as a draw by softmax(score / tau):
    whatever chooses, Q(A) <= 1 - (1 - P(A))^K for every set A of chunks, with equality for the best
    of K and its sets of best chunks. So the density of best-of-K majorizes that of any choice, and
    KL, the mean of a convex function of the density, is largest for it.

    A wider beam looks ahead before it selects, so no chunk is a best-of-K. But an answer y must be
    a node of the tree. The first round samples W K chunks. Each kept node is expanded once, into K
    more, so y is sampled at most W K^T P(y) times on average. Hence Q(y) <= W K^T P(y), and
    KL(Q || P) <= ln W + E[T] ln K for any scores. This bound is loose: it allows for a perfect
    selection at every step.

    Args:
        width: Beam width W.
        successors: Children K of each hypothesis.
        chunks: Number T of chunks of the answer.
    """
    if width == 1:
        return chunks * best_of(successors)
    return math.log(width) + chunks * math.log(successors)


def population(size: int, chunks: int) -> float:
    """Bound KL(Q || P) of a population that is resampled between chunks, in nats.

    N partial answers grow at once, and whatever resamples them makes at most N copies of one. So if
    a partial answer is among them, at most N continue it, and y is sampled at most N^T P(y) times
    on average. Hence Q(y) <= N^T P(y), and KL(Q || P) <= E[T] ln N. This bound is loose, as that of
    a wide beam.

    Args:
        size: Number N of partial answers.
        chunks: Number T of chunks of the answer.
    """
    return chunks * math.log(size)
