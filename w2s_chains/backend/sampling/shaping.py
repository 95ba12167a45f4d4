"""``Shaper`` makes the distributions that tokens are sampled from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from w2s_chains.backend.sampling.draws import ALL_TOKENS, Draw
from w2s_chains.core.sampling import GREEDY_BELOW

LEAST = -1e4
"""The log-probability with which a guide steers away from a token that it excludes, in nats."""


class Shaper:
    """Makes the distributions that tokens are sampled from, each row by its own parameters."""

    def __init__(self, draws: Sequence[Draw], device: torch.device) -> None:
        params = [draw.sampling for draw in draws]
        self.greedy = [p.temperature < GREEDY_BELOW for p in params]
        rows = [
            [1.0 if cold else p.temperature for cold, p in zip(self.greedy, params, strict=True)],
            [p.top_p for p in params],
            [float(min(p.top_k or ALL_TOKENS, ALL_TOKENS)) for p in params],
            [math.log(p.min_p) if p.min_p else float("-inf") for p in params],
            [p.repetition_penalty for p in params],
            *zip(*(draw.weights for draw in draws), strict=True),
        ]
        # One copy to the device. Each is a column: [B, 1]
        packed = torch.tensor(rows, device=device)[:, :, None]
        self._temperature, self._top_p, self._top_k, self._least, self._penalty = packed[:5]
        self._weights = packed[5:]
        self._ranks = any(p.top_p < 1 or p.top_k is not None for p in params)
        # All draws are from one model.
        self._suppressed, self._suppressed_first = draws[0].suppressed, draws[0].suppressed_first
        self._beginning = [row for row, draw in enumerate(draws) if not draw.n_tokens]
        self._hidden: dict[tuple[tuple[int, ...], int], Tensor] = {}
        self._limits = any(p.min_p for p in params)
        self._penalises = any(p.repetition_penalty != 1 for p in params)
        if self._penalises:
            paths = [draw.parents[0].path_ids() for draw in draws]
            longest = max(len(path) for path in paths)
            # Pad with a token of the path itself: repetitions make no difference to the penalty.
            self._seen = torch.tensor(
                [path + path[:1] * (longest - len(path)) for path in paths], device=device
            )

    def steered(self, base: Tensor, known: Sequence[Tensor]) -> Tensor:
        """Add each steering model's weighted log-probabilities: [B, V]."""
        for weight, own in zip(self._weights, known, strict=True):
            # A token that both guides exclude must not become inf - inf.
            base = base + weight * own.to(base.device).clamp(min=LEAST)
        return base

    def shaped(self, logits: Tensor, sampled: Sequence[Tensor], allowed: Tensor | None) -> Tensor:
        """Return the logits to sample from: penalised, masked, tempered and filtered: [B, V].

        It returns a copy.
        """
        if self._penalises:
            logits = self._penalised(logits, sampled)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        logits = logits / self._temperature
        if self._suppressed:
            logits.index_fill_(1, self._in_table(self._suppressed, logits), float("-inf"))
        if self._suppressed_first and self._beginning and not sampled:
            rows = torch.tensor(self._beginning, device=logits.device)[:, None]
            logits[rows, self._in_table(self._suppressed_first, logits)] = float("-inf")
        kept = self._ranked(logits) if self._ranks else logits
        if not self._limits:
            return kept
        # p >= min_p * max p, in logarithms; no rounding may exclude the likeliest token itself.
        far = logits < logits.amax(1, keepdim=True) + self._least
        return kept.masked_fill(far, float("-inf"))

    def _in_table(self, tokens: tuple[int, ...], logits: Tensor) -> Tensor:
        """Return those of some tokens that a table has; models' tables differ in size."""
        key = tokens, logits.shape[1]
        if key not in self._hidden:
            ids = [token for token in tokens if token < logits.shape[1]]
            self._hidden[key] = torch.tensor(ids, dtype=torch.long, device=logits.device)
        return self._hidden[key]

    def _penalised(self, logits: Tensor, sampled: Sequence[Tensor]) -> Tensor:
        seen = torch.cat([self._seen, *(ids[:, None] for ids in sampled)], dim=1)
        old = logits.gather(1, seen)
        new = torch.where(old < 0, old * self._penalty, old / self._penalty)
        return logits.scatter(1, seen, new)

    def _ranked(self, logits: Tensor) -> Tensor:
        """Keep the tokens that ``top_k`` and ``top_p`` keep."""
        ranked, order = logits.sort(dim=1, descending=True, stable=True)
        rank = torch.arange(logits.shape[1], device=logits.device)[None, :]
        ranked = ranked.masked_fill(rank >= self._top_k, float("-inf"))
        probabilities = ranked.softmax(1)
        before = probabilities.cumsum(1) - probabilities
        # Rows with top_p = 1 keep all tokens: a rounded sum must not cut their tail.
        ranked = ranked.masked_fill((before >= self._top_p) & (self._top_p < 1), float("-inf"))
        return torch.empty_like(logits).scatter_(1, order, ranked)
