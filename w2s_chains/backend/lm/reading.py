"""Read given texts: ``Reading``, a segment to be read, and ``read``, which batches them."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from w2s_chains.backend.kv.batch import Batch, Branch
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.logits import log_softmax_at, to_lists

_LOGITS_PER_PASS = 2**25
"""Most logits (row, position, token) of one forward pass, 128 MB in float32, so that memory does
not grow with the length of the text times the vocabulary."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """A segment to be read after its parent.

    Attributes:
        segment: The segment; gets its keys and values, and its ``logprobs`` if it is scored.
        scored: Whether the log-probabilities of its tokens are wanted.
        end_id: The end token, if the answer ended here; nothing can follow then.
        adapter: The adapter that reads it, as in ``CausalLM.adapter``.
        end_logprob: log p(end token) after the segment, in nats; set by ``read``.
    """

    segment: Segment
    scored: bool
    end_id: int | None = None
    adapter: str | None = None
    end_logprob: float = 0.0

    @property
    def begin(self) -> int:
        """Position of the first token that the model reads."""
        return self.segment.kv_start

    @property
    def family(self) -> tuple[int, int]:
        """Equal for readings that begin with the same token of the same path, which is read once.

        A segment without a parent shares nothing with others, not even its first token.
        """
        origin = self if self.segment.parent is None else self.segment.parent
        return id(origin), self.begin

    @property
    def identity(self) -> Hashable:
        """Equal for readings of the same tokens after the same segment."""
        own = self.segment
        return id(self) if own.parent is None else (id(own.parent), own.start, own.ids, self.end_id)

    @property
    def count(self) -> int:
        """Number of tokens that the model reads: the last one only if the end token follows it."""
        return self.segment.end - (self.end_id is None) - self.begin

    @property
    def cost(self) -> int:
        return self.segment.end

    def tokens(self) -> list[int]:
        """Return the tokens that the model reads, and the token after them."""
        own = [*self.segment.ids] if self.end_id is None else [*self.segment.ids, self.end_id]
        if self.segment.parent is None:
            return own
        return [_token_at(self.segment.parent, self.begin), *own]


@torch.inference_mode()
def read(lm: CausalLM, readings: Sequence[Reading]) -> None:
    """Read segments whose parents were read: fill in keys and values, and log-probabilities.

    Segments of several views of one model are read together.

    Raises:
        OutOfMemoryError: One segment alone does not fit into memory.
    """
    lm.counters.prefills += sum(r.segment.parent is None for r in readings)
    groups: dict[tuple[bool, int], list[Reading]] = {}
    for r in readings:
        # A recurrent state that goes on into padding is of no use.
        groups.setdefault((r.scored, r.count if lm.recurrent else 0), []).append(r)
    for own in groups.values():
        lm.in_batches(own, lambda r: r.cost, functools.partial(_read_batch, lm))


def _read_batch(lm: CausalLM, readings: Sequence[Reading]) -> list[None]:
    steps = max(1, *(r.count for r in readings))
    families: dict[tuple[int, int], list[Reading]] = {}
    for r in sorted(readings, key=lambda r: r.adapter or ""):  # keeps rows of one adapter together
        families.setdefault(r.family, []).append(r)
    rows, width = lm.in_rows(families.values(), steps, max(r.begin for r in readings))
    batch = lm.gather(
        [(own[0].segment.parent, own[0].begin) for own in rows],
        width=width,
        steps=steps,
        adapters=[own[0].adapter for own in rows],
    )
    tokens = np.zeros((len(rows), width, steps + 1), np.int64)
    for row, own in enumerate(rows):
        for branch, r in enumerate(own):
            known = r.tokens()
            tokens[row, branch, : len(known)] = known
    fed = torch.as_tensor(tokens).to(lm.device)
    logprobs: list[list[list[float]]] = to_lists(_read_tokens(lm, batch, fed, readings[0].scored))
    kept: list[Branch] = []
    for row, own in enumerate(rows):
        for branch, r in enumerate(own):
            values = logprobs[row][branch][: r.count]
            if r.end_id is not None:
                r.end_logprob = values.pop()
            else:
                kept.append((r.segment, row, branch, r.count))
            if r.scored:
                # The model gives no probability to the token at position 0.
                unpredicted = [0.0] if r.segment.start == 0 else []
                r.segment.logprobs = tuple(unpredicted + values)
    batch.keep(kept)
    lm.counters.tokens_read -= sum(  # padding
        width * (steps - 1) - sum(max(r.count, 1) - 1 for r in own) for own in rows
    )
    return [None] * len(readings)


def _read_tokens(lm: CausalLM, batch: Batch, tokens: Tensor, scored: bool) -> Tensor:
    """Read branches, and return log p of each of their tokens but the first.

    Args:
        lm: The model that reads.
        batch: The batch; gets the keys and values.
        tokens: Tokens of each branch. All branches of a row begin with the same token; the last
            token of a branch is predicted but not read. [B, width, steps + 1]
        scored: Whether log-probabilities are wanted.

    Returns:
        Log-probabilities in nats; zeros if they are not wanted. [B, width, steps]
    """
    rows, width, steps = tokens.shape[0], tokens.shape[1], tokens.shape[2] - 1
    columns = tokens.transpose(1, 2)  # a column per token of each branch in turn
    fed = torch.cat((tokens[:, 0, :1], columns[:, 1:-1].reshape(rows, -1)), dim=1)
    if not scored:
        lm.forward(batch, fed, last_only=True)
        return torch.zeros((rows, width, steps))
    # The tokens that follow each column: one of every branch after the shared column, then one.
    following = columns[:, 2:].reshape(rows, -1, 1).expand(-1, -1, width)
    wanted = torch.cat((columns[:, 1:2], following), dim=1)  # [B, columns, width]
    passes: list[Tensor] = []
    at_once = max(1, _LOGITS_PER_PASS // (rows * lm.vocabulary_size))
    if lm.border is not None:
        at_once = fed.shape[1]  # the beginning of a long text must be read as a part of it
    for at in range(0, fed.shape[1], at_once):
        logits = lm.forward(batch, fed[:, at : at + at_once]).flatten(0, 1)
        own = wanted[:, at : at + at_once]
        passes.append(log_softmax_at(logits, own.flatten(0, 1)).view(own.shape))
    likely = torch.cat(passes, dim=1)  # [B, columns, width]
    others = likely[:, 1:, 0].reshape(rows, steps - 1, width)
    return torch.cat((likely[:, :1], others), dim=1).transpose(1, 2)


def _token_at(segment: Segment, position: int) -> int:
    """Return the token at a position of the path that ends with ``segment``."""
    node: Segment | None = segment
    while node is not None and position < node.start:
        node = node.parent
    assert node is not None
    return node.ids[position - node.start]
