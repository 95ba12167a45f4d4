"""Sample chunks: read the last token of each parent once, then decode all children together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from w2s_chains.backend.kv.batch import Branch
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.logits import read_chosen, tiles
from w2s_chains.backend.sampling.choosing import Chooser
from w2s_chains.backend.sampling.draws import Draw, last_id
from w2s_chains.errors import ProposerError

if TYPE_CHECKING:
    from w2s_chains.backend.constrained.grammar import GrammarState


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A sampled child.

    Attributes:
        segments: The new tokens, without end token, as a segment in each model; in the order of
            ``Draw.parents``.
        end_logprob: log p(end token) after them under the first model, in nats; None if no end
            token was sampled.
        drifts: log q(token) - log p(token) of each token, in nats: q is the distribution that it
            was sampled from, p the same without steering. 0 without steering.
        state: Grammar state after the tokens; None allows all.
        entropies: Entropy of the distribution of each token, in nats; None without a limit for it.
        sampled: Tokens that were sampled for it: with an end token, and what lay behind its end.
    """

    segments: tuple[Segment, ...]
    end_logprob: float | None
    drifts: tuple[float, ...]
    state: GrammarState | None = None
    entropies: tuple[float, ...] | None = None
    sampled: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens, without end token."""
        return self.segments[0].ids

    @property
    def ended(self) -> bool:
        """Whether an end token was sampled."""
        return self.end_logprob is not None

    def cut(self, count: int) -> Drawn:
        """Return the child that has only the first ``count`` of the tokens."""
        return Drawn(
            segments=tuple(segment.cut(count) for segment in self.segments),
            end_logprob=None,
            drifts=self.drifts[:count],
            entropies=self.entropies and self.entropies[:count],
            sampled=self.sampled,
        )

    def then(self, more: Drawn) -> Drawn:
        """Return this child with the tokens that were sampled after it."""
        return Drawn(
            segments=tuple(map(_joined, self.segments, more.segments)),
            end_logprob=more.end_logprob,
            drifts=self.drifts + more.drifts,
            state=more.state,
            entropies=self.entropies and self.entropies + (more.entropies or ()),
            sampled=self.sampled + more.sampled,
        )


def _joined(first: Segment, second: Segment) -> Segment:
    """Return two segments, the second of which continues the first, as one."""
    segment = Segment(first.parent, first.start, first.ids + second.ids)
    segment.logprobs = first.logprobs + second.logprobs
    segment.kv = None if first.kv is None or second.kv is None else first.kv + second.kv
    segment.states = first.states | second.states
    return segment


_FIRST_LOOK = 2
"""Tokens after which we look which chunks have ended, of those that may end early; then after twice
as many, and so on. Chunks that go on do so in a smaller batch."""


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
    found: dict[int, Drawn] = {}
    going, size = list(enumerate(draws)), _FIRST_LOOK
    while going:
        pieces = [
            own if own.until is None else replace(own, steps=min(size, own.steps))
            for _, own in going
        ]
        sampled = models[0].in_batches(
            pieces, lambda draw: draw.cost, lambda batch: _sample_batch(models, batch, ends)
        )
        left: list[tuple[int, Draw]] = []
        for (i, draw), piece, more in zip(going, pieces, sampled, strict=True):
            found[i] = found[i].then(more) if draw.begun else more
            end = None if draw.end_of is None else draw.end_of(found[i].ids)
            if end is not None:
                found[i] = found[i].cut(end)
            elif piece.steps < draw.steps and len(more.ids) == piece.steps:
                left.append((i, _rest(draw, more)))
        going, size = left, 2 * size
    return [found[i] for i in range(len(draws))]


def _rest(draw: Draw, begun: Drawn) -> Draw:
    """Return the draw of what follows the first tokens of a chunk."""
    count = len(begun.ids)
    return replace(
        draw,
        parents=begun.segments,
        steps=draw.steps - count,
        n_tokens=draw.n_tokens + count,
        begun=draw.begun + count,
        state=begun.state,
        rank=None,
    )


def _sample_batch(
    models: Sequence[CausalLM], draws: Sequence[Draw], end_ids: Sequence[int]
) -> list[Drawn]:
    steps = max(draw.steps for draw in draws)
    families: dict[tuple[object, ...], list[int]] = {}
    for i, draw in enumerate(draws):
        families.setdefault(draw.distribution, []).append(i)
    past = max(draw.parents[0].end for draw in draws)
    narrowest = next((model for model in models if not model.can_branch), models[0])
    rows, width = narrowest.in_rows(families.values(), steps, past)
    # Every branch of every row samples; where a row has too few draws, its last one is repeated.
    slots = [own[min(branch, len(own) - 1)] for own in rows for branch in range(width)]
    place = {i: divmod(slot, width) for slot, i in reversed(list(enumerate(slots)))}
    in_order = [draws[i] for i in slots]

    parents = [[draws[own[0]].parents[m] for own in rows] for m in range(len(models))]
    batches = [
        model.gather([(own, own.end - 1) for own in above], width=width, steps=steps)
        for model, above in zip(models, parents, strict=True)
    ]
    logits = [
        model.forward(batch, torch.tensor([[last_id(own)] for own in above], device=model.device))
        for model, batch, above in zip(models, batches, parents, strict=True)
    ]  # [B, 1, V] each
    device = logits[0].device  # differs from the model's if layers are spread over devices
    ends = torch.tensor(end_ids, dtype=torch.long, device=device)
    ended = torch.zeros(len(slots), dtype=torch.bool, device=device)
    limits = [(draw.most_entropy, draw.least_top, float(draw.least)) for draw in in_order]
    most_entropy, least_top, least = torch.tensor(limits, device=device).T
    sampled: list[Tensor] = []
    numbers: list[Tensor] = []
    choosers: list[Chooser] = []
    states = [draw.state for draw in in_order]
    for step in range(steps):
        tables = [own.flatten(0, 1) for own in logits]
        parts = tiles(tables[0])
        if step < 2:  # first one row of logits for all branches, then one for each
            each = 1 if step else width
            known = [in_order[at : at + each] for at in range(0, len(slots), each)]
            ahead = range(1, steps) if step else [0]
            choosers = [
                Chooser(known[part], states[part.start * each : part.stop * each], ahead, device)
                for part in parts
            ]
        chosen = [
            choose([table[part] for table in tables], step, [ids[part] for ids in sampled])
            for part, choose in zip(parts, choosers, strict=True)
        ]
        ids = torch.cat([own for own, _ in chosen])  # [B * width]
        states = [state for choose in choosers for state in choose.states]
        sampled.append(ids)
        numbers.append(torch.cat([own for _, own in chosen], dim=1))  # [models + 3, B * width]
        ended |= torch.isin(ids, ends)
        entropy, top = numbers[-1][-2:]
        ended |= ((entropy > most_entropy) | (top < least_top)) & (step >= least)
        if step + 1 == steps or (_may_look(device, step) and bool(ended.all())):
            break
        logits = [
            model.forward(batch, ids.view(-1, width).to(model.device))
            for model, batch in zip(models, batches, strict=True)
        ]
    taken: list[list[int]]  # [B * width, steps]
    values: list[list[list[float]]]  # [models + 3, B * width, steps]
    taken, values = read_chosen(sampled, numbers)
    drawn: list[Drawn] = []
    kept: list[list[Branch]] = [[] for _ in models]
    for i, draw in enumerate(draws):
        row, branch = place[i]
        slot = row * width + branch
        own = [table[slot] for table in values]
        one = drawn_of(draw, taken[slot], own, set(end_ids), models)
        if not one.ended or draw.until is not None:  # which may cut the end off
            for segment, branches in zip(one.segments, kept, strict=True):
                branches.append((segment, row, branch, len(segment.ids)))
        drawn.append(replace(one, state=states[slot]))
    for batch, branches in zip(batches, kept, strict=True):
        batch.keep(branches)
    return drawn


def _may_look(device: torch.device, step: int) -> bool:
    """Decide whether to check if all rows have ended, which synchronises with a GPU."""
    return device.type == "cpu" or step % 16 == 15


def drawn_of(
    draw: Draw,
    ids: list[int],
    values: list[list[float]],
    end_ids: set[int],
    models: Sequence[CausalLM],
) -> Drawn:
    """Make the child from one branch: its tokens up to the end of the chunk, as segments."""
    most_entropy, least_top = draw.most_entropy, draw.least_top
    ids = ids[: draw.steps]
    count = next((i for i, token in enumerate(ids) if token in end_ids), len(ids))
    ended = count < len(ids)
    cut = next(
        (
            i
            for i in range(draw.least, count + ended)
            if values[-2][i] > most_entropy or values[-1][i] < least_top
        ),
        None,
    )
    if cut is not None:
        count, ended = cut, False
    *logprobs, drifts, entropies, _ = [own[: count + ended] for own in values]
    _check_numbers(models, logprobs, drifts)
    segments: list[Segment] = []
    for parent, own in zip(draw.parents, logprobs, strict=True):
        segment = Segment(parent, parent.end, ids[:count])
        segment.logprobs = tuple(own[:count])
        segments.append(segment)
    return Drawn(
        segments=tuple(segments),
        end_logprob=logprobs[0][count] if ended else None,
        drifts=tuple(drifts),
        entropies=None if math.isinf(most_entropy) else tuple(entropies),
        sampled=min(count + 1, draw.steps),
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
