"""Reading segments: texts that are given, after what is read already."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.kv import Batch, Segment
from w2s_chains.backend.lm.logits import log_softmax_at, to_lists

_LOGITS_PER_PASS = 2**25
"""Logits of one forward pass: they are made for this many (row, position, token) at once, so that
memory does not grow with the length of the text times the vocabulary. 128 MB in float32."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """A segment to be read, after its parent.

    Attributes:
        segment: Gets its keys and values, and its ``logprobs`` if it is scored.
        scored: Whether the log-probabilities of its own tokens are wanted.
        end_id: The end token, if the text ended here; nothing can follow then.
        adapter: What reads it, as ``CausalLM.adapter``.
        end_logprob: log p(end token) after the segment, in nats; set by the reading.
    """

    segment: Segment
    scored: bool = True
    end_id: int | None = None
    adapter: str | None = None
    end_logprob: float = 0.0

    @property
    def begin(self) -> int:
        """Position of the first token that is fed."""
        return self.segment.kv_start

    @property
    def count(self) -> int:
        """Tokens that are fed: up to the last but one, and the last if the end comes after it."""
        return self.segment.end - (self.end_id is None) - self.begin

    @property
    def cost(self) -> int:
        return self.segment.end

    def tokens(self) -> list[int]:
        """What is fed, and the token after it."""
        own = [*self.segment.ids] if self.end_id is None else [*self.segment.ids, self.end_id]
        if self.segment.parent is None or self.begin == self.segment.start:
            return own
        return [_token_at(self.segment.parent, self.begin), *own]


@torch.inference_mode()
def read(lm: CausalLM, readings: Sequence[Reading]) -> None:
    """Read segments whose parents are read: keys and values, and log-probabilities if scored.

    They may be of several views of one model: all are read together.

    Raises:
        OutOfMemoryError: One segment alone does not fit.
    """
    lm.counters.prefills += sum(r.segment.parent is None for r in readings)
    for scored in (False, True):
        lm.in_batches(
            [r for r in readings if r.scored is scored],
            lambda r: r.cost,
            functools.partial(_read_batch, lm),
        )


def _read_batch(lm: CausalLM, readings: Sequence[Reading]) -> list[None]:
    steps = max(1, *(r.count for r in readings))
    families: dict[tuple[int, int], list[Reading]] = {}
    for r in sorted(readings, key=lambda r: r.adapter or ""):  # rows of an adapter together
        # What has no parent shares nothing, not even its first token.
        origin = r if r.segment.parent is None else r.segment.parent
        families.setdefault((id(origin), r.begin), []).append(r)
    rows, width = lm.in_rows(families.values(), steps, max(r.begin for r in readings))
    batch = lm.gather(
        [(own[0].segment.parent, own[0].begin) for own in rows],
        width=width,
        steps=steps,
        adapters=[own[0].adapter for own in rows],
    )
    tokens = torch.zeros((len(rows), width, steps + 1), dtype=torch.long)
    for row, own in enumerate(rows):
        for branch, r in enumerate(own):
            known = r.tokens()
            tokens[row, branch, : len(known)] = torch.tensor(known)
    logprobs: list[list[list[float]]] = to_lists(
        _read_tokens(lm, batch, tokens.to(lm.device), readings[0].scored)
    )
    for row, own in enumerate(rows):
        for branch, r in enumerate(own):
            values = logprobs[row][branch][: r.count]
            if r.end_id is not None:
                r.end_logprob = values.pop()
            else:
                r.segment.kv = batch.slice(row, branch, r.count)
            if r.scored:
                # Nothing predicts the token at position 0.
                unpredicted = [0.0] if r.segment.start == 0 else []
                r.segment.logprobs = tuple(unpredicted + values)
    lm.counters.tokens_read -= sum(  # padding
        width * (steps - 1) - sum(max(r.count, 1) - 1 for r in own) for own in rows
    )
    return [None] * len(readings)


def _read_tokens(lm: CausalLM, batch: Batch, tokens: Tensor, scored: bool) -> Tensor:
    """Read branches, and give log p of each of their tokens but the first, if wanted.

    Args:
        lm: What reads.
        batch: Gets the keys and values.
        tokens: Tokens of each branch; all of a row begin with the same one, and the last one
            is not read. [B, width, steps + 1]
        scored: Whether log-probabilities are wanted.

    Returns:
        In nats; zeros if unwanted. [B, width, steps]
    """
    rows, width, steps = tokens.shape[0], tokens.shape[1], tokens.shape[2] - 1
    columns = tokens.transpose(1, 2)  # a column per token of each branch in turn
    fed = torch.cat((tokens[:, 0, :1], columns[:, 1:-1].reshape(rows, -1)), dim=1)
    if not scored:
        lm.forward(batch, fed, last_only=True)
        return torch.zeros((rows, width, steps))
    # What comes after each column: one token of every branch, then a single one.
    following = columns[:, 2:].reshape(rows, -1, 1).expand(-1, -1, width)
    wanted = torch.cat((columns[:, 1:2], following), dim=1)  # [B, columns, width]
    passes: list[Tensor] = []
    at_once = max(1, _LOGITS_PER_PASS // (rows * lm.vocabulary_size))
    for at in range(0, fed.shape[1], at_once):
        logits = lm.forward(batch, fed[:, at : at + at_once]).flatten(0, 1)
        own = wanted[:, at : at + at_once]
        passes.append(log_softmax_at(logits, own.flatten(0, 1)).view(own.shape))
    likely = torch.cat(passes, dim=1)  # [B, columns, width]
    others = likely[:, 1:, 0].reshape(rows, steps - 1, width)
    return torch.cat((likely[:, :1], others), dim=1).transpose(1, 2)


def _token_at(segment: Segment, position: int) -> int:
    """The token at a position of the path that ends with ``segment``."""
    node: Segment | None = segment
    while node is not None and position < node.start:
        node = node.parent
    assert node is not None
    return node.ids[position - node.start]
