"""Tables of logits: read without large temporary copies, and ``Chooser``, which picks tokens."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from w2s_chains.backend.lm.kv import Segment
from w2s_chains.core.sampling import SamplingParams, noise_key

if TYPE_CHECKING:
    from w2s_chains.backend.constrained.grammar import GrammarState

_TILE = 2**17
"""Most logits that one operation on the CPU gets. The allocator returns larger temporary tensors
to the system after every operation and gets them back page by page, which takes two to four times
as long."""
_GREEDY_BELOW = 1e-6
"""Below this temperature we take the best token: noise would vanish in float32, and at far lower
temperatures the logits would overflow."""
_LEAST = -1e4
"""The log-probability with which a guide steers away from a token that it excludes, in nats."""
_ALL = 2**31 - 1
"""A number of tokens that is all of them."""


def tiles(logits: Tensor) -> list[slice]:
    """Cut the rows of a table [R, V] into slices, for operations that need copies of them."""
    rows = max(1, _TILE // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    return [slice(at, at + rows) for at in range(0, len(logits), rows)]


def log_softmax_at(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, in nats: [R, V] at [R, n] gives [R, n]."""
    ids = ids.to(logits.device)
    parts = [logits[part].log_softmax(1).gather(1, ids[part]) for part in tiles(logits)]
    return torch.cat(parts) if parts else logits.new_zeros(ids.shape)


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


def _mix(x: Tensor) -> Tensor:
    """Hash int32 in place, bijectively (the "lowbias32" mixer; masks make the shifts logical)."""
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
    """Return the logarithm of standard exponential noise for every token of the vocabulary.

    ``argmax(logits - log_exponential)`` is a sample from softmax(logits) (Gumbel-max trick).

    Args:
        keys: Two words per row from ``noise_key``. [B, 2], int32
        vocabulary: The vocabulary's size V.

    Returns:
        [B, V], float32
    """
    x = _tokens(vocabulary, keys.device)[None, :] ^ keys[:, :1]
    x *= keys[:, 1:] | 1
    x = _mix(x)
    # -u, with u uniform in (0, 1). Small u decide who wins, and keep all 31 bits, because there
    # -log1p(-u) ~ u. The largest u round to 1, which gives infinite noise: such a token never wins.
    minus = (x & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(-(2.0**-31))
    return minus.log1p_().neg_().log_()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One child to be sampled.

    Attributes:
        parents: The parent's segment in the proposer, then in each steering model.
        steps: Most tokens to sample.
        sampling: Temperature and filters.
        place: Seeds the random numbers, together with the token's number in the answer.
        n_tokens: Tokens of the answer so far.
        state: Grammar state that limits the tokens; None allows all. The answer it holds to fits
            into ``sampling.max_tokens``.
        weights: Weight of each steering model's log-probabilities.
        known: Tokens of the vocabulary; later rows of the model's table are padding.
    """

    parents: tuple[Segment, ...]
    steps: int
    sampling: SamplingParams
    place: tuple[object, ...]
    n_tokens: int
    state: GrammarState | None = None
    weights: tuple[float, ...] = ()
    known: int = _ALL

    @property
    def cost(self) -> int:
        return self.parents[0].end + self.steps


class Chooser:
    """Chooses the next token of every row by the row's own sampling parameters."""

    def __init__(self, draws: Sequence[Draw], steps: int, device: torch.device) -> None:
        params = [draw.sampling for draw in draws]
        self.states = [draw.state for draw in draws]
        self.steps = [draw.steps for draw in draws]
        self.known = min(draw.known for draw in draws)
        self.left = [draw.sampling.max_tokens - draw.n_tokens for draw in draws]
        weights = zip(*(draw.weights for draw in draws), strict=True)
        self.weights = [torch.tensor(own, device=device) for own in weights]
        greedy = [p.temperature < _GREEDY_BELOW for p in params]
        self.noisy = not all(greedy)
        self.greedy = torch.tensor(greedy, device=device)[:, None] if any(greedy) else None
        temperatures = [
            1.0 if cold else p.temperature for cold, p in zip(greedy, params, strict=True)
        ]
        self.temperature = torch.tensor(temperatures, device=device)
        self.top_p = torch.tensor([p.top_p for p in params], device=device)
        self.top_k = torch.tensor([min(p.top_k or _ALL, _ALL) for p in params], device=device)
        self.ranks = any(p.top_p < 1 or p.top_k is not None for p in params)
        least = [math.log(p.min_p) if p.min_p else float("-inf") for p in params]
        self.least = (
            torch.tensor(least, device=device)[:, None] if any(p.min_p for p in params) else None
        )
        penalties = [p.repetition_penalty for p in params]
        self.penalty = torch.tensor(penalties, device=device)[:, None]
        self.penalises = any(penalty != 1 for penalty in penalties)
        keys = [
            [noise_key(*draw.place, draw.n_tokens + step) for draw in draws]
            for step in range(steps if self.noisy else 0)
        ]
        self.keys = torch.tensor(keys, dtype=torch.int32, device=device)  # [steps, B, 2]
        if self.penalises:
            paths = [draw.parents[0].path_ids() for draw in draws]
            longest = max(len(path) for path in paths)
            # Pad with a token of the path itself: repetitions make no difference to the penalty.
            self.seen = torch.tensor(
                [path + path[:1] * (longest - len(path)) for path in paths], device=device
            )

    def __call__(
        self, tables: Sequence[Tensor], step: int, sampled: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Choose the next tokens.

        Args:
            tables: Logits of each model. [B, V] each
            step: Number of the token in this chunk.
            sampled: Tokens of this chunk so far. [B] each

        Returns:
            The tokens [B]; and a table [models + 1, B] of their log-probabilities under each
            model, at temperature 1 and unfiltered, with a last row of what steering added to the
            log-probability that they were sampled with.
        """
        # Models may pad the same vocabulary to different sizes: use the part that all have.
        size = min(self.known, *(table.shape[1] for table in tables))
        known = [table.log_softmax(1)[:, :size] for table in tables]
        base = logits = tables[0][:, :size]
        for weights, own in zip(self.weights, known[1:], strict=True):
            # A token that both guides exclude must not become inf - inf.
            logits = logits + weights[:, None] * own.to(logits.device).clamp(min=_LEAST)
        live = [
            row
            for row, state in enumerate(self.states)
            if state is not None and not state.ended and step < self.steps[row]
        ]
        allowed = self._allowed(logits) if live else None
        logits = self._shaped(logits, sampled, allowed)
        ids = self._pick(logits, step, live)
        at = ids[:, None]
        likely = [own.gather(1, at.to(own.device)).to(ids.device) for own in known]
        if self.weights:
            base = self._shaped(base, sampled, allowed)
            drift = logits.log_softmax(1).gather(1, at) - base.log_softmax(1).gather(1, at)
        else:
            drift = torch.zeros_like(likely[0])
        return ids, torch.cat([*likely, drift], dim=1).T

    def _shaped(self, logits: Tensor, sampled: Sequence[Tensor], allowed: Tensor | None) -> Tensor:
        """Return the logits to sample from: penalised, masked, tempered and filtered."""
        if self.penalises:
            logits = self._penalise(logits, sampled)
        if allowed is not None:
            logits = logits.masked_fill(~allowed, float("-inf"))
        logits = logits / self.temperature[:, None]
        kept = self._ranked(logits) if self.ranks else logits
        if self.least is None:
            return kept
        # p >= min_p * max p, in logarithms; no rounding may exclude the likeliest token itself.
        far = logits < logits.amax(1, keepdim=True) + self.least
        return kept.masked_fill(far, float("-inf"))

    def _pick(self, logits: Tensor, step: int, live: Sequence[int]) -> Tensor:
        """Pick the best tokens after adding noise; rows ``live`` also follow their grammar."""
        if self.noisy:
            noise = log_exponential(self.keys[step], logits.shape[1])
            if self.greedy is not None:
                noise.masked_fill_(self.greedy, 0.0)
            logits = logits - noise
        return self._choose(logits, step, live) if live else logits.argmax(1)

    def _allowed(self, logits: Tensor) -> Tensor:
        from w2s_chains.backend.constrained.grammar import allowed

        return allowed(self.states, logits.shape[1], logits.device)

    def _choose(self, scores: Tensor, step: int, live: Sequence[int]) -> Tensor:
        """Pick the best tokens; in rows ``live`` the best that the grammar allows."""
        from w2s_chains.backend.constrained.grammar import choose

        ids = scores.argmax(1)
        states = [state for row in live if (state := self.states[row])]
        chosen, after = choose(scores[live], states, [self.left[row] - step for row in live])
        ids[live] = torch.tensor(chosen, device=ids.device)
        for row, state in zip(live, after, strict=True):
            self.states[row] = state
        return ids

    def _penalise(self, logits: Tensor, sampled: Sequence[Tensor]) -> Tensor:
        seen = torch.cat([self.seen, *(ids[:, None] for ids in sampled)], dim=1)
        old = logits.gather(1, seen)
        new = torch.where(old < 0, old * self.penalty, old / self.penalty)
        return logits.scatter(1, seen, new)

    def _ranked(self, logits: Tensor) -> Tensor:
        """Keep the tokens that ``top_k`` and ``top_p`` keep."""
        ranked, order = logits.sort(dim=1, descending=True, stable=True)
        rank = torch.arange(logits.shape[1], device=logits.device)[None, :]
        ranked = ranked.masked_fill(rank >= self.top_k[:, None], float("-inf"))
        probabilities = ranked.softmax(1)
        before = probabilities.cumsum(1) - probabilities
        # Rows with top_p = 1 keep all tokens: a rounded sum must not cut their tail.
        cut = (before >= self.top_p[:, None]) & (self.top_p < 1)[:, None]
        ranked = ranked.masked_fill(cut, float("-inf"))
        return torch.empty_like(logits).scatter_(1, order, ranked)
