"""Sample chunks: read the last token of each parent once, then decode all children together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.kv import Batch, Segment
from w2s_chains.backend.lm.logits import log_exponential, tiles, to_lists
from w2s_chains.core.sampling import SamplingParams, noise_key
from w2s_chains.errors import ProposerError

if TYPE_CHECKING:
    from w2s_chains.backend.constrained.grammar import GrammarState


_GREEDY_BELOW = 1e-6
"""Below this temperature we take the best token: noise would vanish in float32, and at far lower
temperatures the logits would overflow."""
_LEAST = -1e4
"""The log-probability with which a guide steers away from a token that it excludes, in nats."""
_ALL = 2**31 - 1
"""A number of tokens that is all of them."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A sampled child.

    Attributes:
        segments: The new tokens, without end token, as a segment in each model; in the order of
            ``Draw.parents``.
        end_logprob: log p(end token) after them under the first model, in nats; None if no end
            token was sampled.
        drift: Sum over the tokens of log q(token) - log p(token), in nats: q is the distribution
            they were sampled from, p the same without steering. 0 without steering.
        state: Grammar state after the tokens; None allows all.
    """

    segments: tuple[Segment, ...]
    end_logprob: float | None
    drift: float = 0.0
    state: GrammarState | None = None

    @property
    def ended(self) -> bool:
        """Whether an end token was sampled."""
        return self.end_logprob is not None


@torch.inference_mode()
def sample(
    models: Sequence[CausalLM], draws: Sequence[Draw], end_ids: Iterable[int]
) -> list[Drawn]:
    """Sample each draw; no result depends on the other draws.

    With steering models, tokens come from softmax(log p_base + sum_i w_i log p_i). With weights
    (beta, -beta) for (tuned, untuned) this is emulated fine-tuning (Mitchell et al., 2023).

    Args:
        models: The proposer, then the steering models; all with the same vocabulary.
        draws: The children to sample; their parents must have been read.
        end_ids: Tokens that end the answer.

    Returns:
        One child per draw, in order.

    Raises:
        OutOfMemoryError: One draw alone does not fit into memory.
        ProposerError: A model gave logits that are NaN or infinite.
    """
    ends = sorted(set(end_ids))
    return models[0].in_batches(
        draws, lambda draw: draw.cost, lambda batch: _sample_batch(models, batch, ends)
    )


def _sample_batch(
    models: Sequence[CausalLM], draws: Sequence[Draw], end_ids: Sequence[int]
) -> list[Drawn]:
    steps = max(draw.steps for draw in draws)
    families: dict[tuple[int, ...], list[int]] = {}
    for i, draw in enumerate(draws):
        families.setdefault(tuple(id(segment) for segment in draw.parents), []).append(i)
    past = max(draw.parents[0].end for draw in draws)
    narrowest = next((model for model in models if not model.can_branch), models[0])
    rows, width = narrowest.in_rows(families.values(), steps, past)
    # Every branch of every row samples; where a row has too few draws, its last one is repeated.
    slots = [own[min(branch, len(own) - 1)] for own in rows for branch in range(width)]
    place = {i: divmod(slot, width) for slot, i in reversed(list(enumerate(slots)))}

    batches: list[Batch] = []
    logits: list[Tensor] = []
    for m, model in enumerate(models):
        parents = [draws[own[0]].parents[m] for own in rows]
        batches.append(
            model.gather([(own, own.end - 1) for own in parents], width=width, steps=steps)
        )
        last = torch.tensor([[own.ids[-1]] for own in parents], device=model.device)
        logits.append(model.forward(batches[m], last)[:, 0].repeat_interleave(width, dim=0))

    device = logits[0].device  # differs from the model's if layers are spread over devices
    parts = tiles(logits[0])
    choosers = [Chooser([draws[i] for i in slots[part]], steps, device) for part in parts]
    ends = torch.tensor(end_ids, dtype=torch.long, device=device)
    ended = torch.zeros(len(slots), dtype=torch.bool, device=device)
    sampled: list[Tensor] = []
    logprobs: list[Tensor] = []
    for step in range(steps):
        chosen = [
            choose([table[part] for table in logits], step, [ids[part] for ids in sampled])
            for part, choose in zip(parts, choosers, strict=True)
        ]
        ids = torch.cat([own for own, _ in chosen])  # [B * width]
        sampled.append(ids)
        logprobs.append(torch.cat([own for _, own in chosen], dim=1))  # [models + 1, B * width]
        ended |= torch.isin(ids, ends)
        if step + 1 == steps or (_may_look(device, step) and bool(ended.all())):
            break
        logits = [
            model.forward(batch, ids.view(-1, width).to(model.device)).flatten(0, 1)
            for model, batch in zip(models, batches, strict=True)
        ]
    taken: list[list[int]] = to_lists(torch.stack(sampled, dim=1))  # [B * width, steps]
    # [models + 1, B * width, steps]
    likely: list[list[list[float]]] = to_lists(torch.stack(logprobs, dim=2))
    states = [state for choose in choosers for state in choose.states]
    drawn: list[Drawn] = []
    for i, draw in enumerate(draws):
        row, branch = place[i]
        slot = row * width + branch
        own = [values[slot] for values in likely]
        one = _drawn(draw, (row, branch), taken[slot], own, set(end_ids), models, batches)
        drawn.append(replace(one, state=states[slot]))
    return drawn


def _may_look(device: torch.device, step: int) -> bool:
    """Decide whether to check if all rows have ended, which synchronises with a GPU."""
    return device.type == "cpu" or step % 16 == 15


def _drawn(
    draw: Draw,
    place: tuple[int, int],
    ids: list[int],
    values: list[list[float]],
    end_ids: set[int],
    models: Sequence[CausalLM],
    batches: Sequence[Batch],
) -> Drawn:
    """Make the child from one branch: its tokens up to the end token, as segments."""
    ids = ids[: draw.steps]
    count = next((i for i, token in enumerate(ids) if token in end_ids), len(ids))
    ended = count < len(ids)
    *logprobs, drifts = [own[: count + ended] for own in values]
    _check_numbers(models, logprobs, drifts)
    segments: list[Segment] = []
    for parent, batch, own in zip(draw.parents, batches, logprobs, strict=True):
        segment = Segment(parent, parent.end, ids[:count])
        segment.logprobs = tuple(own[:count])
        if not ended:
            segment.kv = batch.slice(*place, count)
        segments.append(segment)
    return Drawn(
        segments=tuple(segments),
        end_logprob=logprobs[0][count] if ended else None,
        drift=sum(drifts),
    )


def _check_numbers(
    models: Sequence[CausalLM], logprobs: Sequence[Sequence[float]], drifts: Sequence[float]
) -> None:
    """Raise ProposerError if logits were NaN or infinite, which makes all log-probabilities NaN.

    The log-probabilities are read once for a whole chunk, so looking costs no synchronisation.
    """
    for model, own in zip(models, logprobs, strict=True):
        if any(map(math.isnan, own)):
            raise ProposerError(model.no_numbers)
    if any(map(math.isnan, drifts)):
        raise ProposerError(
            f"steering takes the logits of model {models[0].name!r} beyond float32; lower beta"
        )


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
        self.filters = any(p.top_p < 1 or p.top_k is not None for p in params)
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
        return self._filter(logits) if self.filters else logits

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

    def _filter(self, logits: Tensor) -> Tensor:
        ranked, order = logits.sort(dim=1, descending=True, stable=True)
        rank = torch.arange(logits.shape[1], device=logits.device)[None, :]
        ranked = ranked.masked_fill(rank >= self.top_k[:, None], float("-inf"))
        probabilities = ranked.softmax(1)
        before = probabilities.cumsum(1) - probabilities
        # Rows with top_p = 1 keep all tokens: a rounded sum must not cut their tail.
        cut = (before >= self.top_p[:, None]) & (self.top_p < 1)[:, None]
        ranked = ranked.masked_fill(cut, float("-inf"))
        return torch.empty_like(logits).scatter_(1, order, ranked)
