"""Sample with drafts: the tuned guide writes some tokens, and the others read them in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from w2s_chains.backend.kv.batch import Batch
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.logits import log_exponential, read_chosen, to_lists
from w2s_chains.backend.sampling.chunks import Drawn, drawn_of
from w2s_chains.backend.sampling.draws import Draw, last_id
from w2s_chains.backend.sampling.shaping import Shaper
from w2s_chains.core.sampling import noise_key

_DRAFT, _ACCEPT, _LAST = "draft", "accept", "last"
"""What a random number is for; each has a stream of its own."""


@torch.inference_mode()
def speculate(
    models: Sequence[CausalLM], draws: Sequence[Draw], end_ids: Iterable[int]
) -> list[Drawn]:
    """Sample each draw with drafts of the tuned guide; no result depends on the other draws.

    Speculative sampling (Leviathan et al., 2023, Algorithm 1): a draft token x is accepted with
    probability min(1, q(x) / d(x)), where q is the distribution of emulated fine-tuning and d the
    tuned guide's own, both shaped by the sampling parameters; the first one that is not is replaced
    by a token from max(q - d, 0). If all are accepted, one more token comes from q. So tokens are
    distributed as by ``sample``, but the proposer reads them in one pass (for weight 1 this is
    reward-shifted speculative sampling, Li et al., 2025, arXiv 2508.15044).

    Args:
        models: The proposer, the tuned and the untuned guide; all with the same vocabulary.
        draws: The children to sample, ``steps - 1`` tokens of each drafted; their parents must have
            been read.
        end_ids: Tokens that end the answer.

    Returns:
        One child per draw, in order, with at least one token or an end.

    Raises:
        OutOfMemoryError: One draw alone does not fit into memory.
        ProposerError: A model gave logits that are NaN or infinite.
    """
    ends = set(end_ids)
    return models[0].in_batches(
        draws, lambda draw: draw.cost, lambda batch: _speculate_batch(models, batch, ends)
    )


def _speculate_batch(
    models: Sequence[CausalLM], draws: Sequence[Draw], end_ids: set[int]
) -> list[Drawn]:
    base, tuned, untuned = models
    steps = max(draw.steps for draw in draws)
    shaper = Shaper(draws, base.device)
    batches = [
        model.gather(
            [(draw.parents[i], draw.parents[i].end - 1) for draw in draws], width=1, steps=steps
        )
        for i, model in enumerate(models)
    ]
    known = min(draw.known for draw in draws)
    # The models' prompts may have templates of their own, and so end with other tokens. [B, 1] each
    own_last, tuned_last, untuned_last = (
        torch.tensor([[last_id(draw.parents[i])] for draw in draws], device=base.device)
        for i in range(len(models))
    )
    ours: list[Tensor] = []  # the tuned guide's logits at each place. [B, V]
    drafts: list[Tensor] = []  # [B] each
    for step in range(steps):
        fed = drafts[-1][:, None] if drafts else tuned_last
        ours.append(_read(tuned, batches[1], fed)[:, -1])
        if step + 1 < steps:
            own = shaper.shaped(ours[-1][:, :known], drafts, None)
            drafts.append(_picked(own, shaper, draws, step, _DRAFT))
    path = [ids[:, None] for ids in drafts]
    theirs = (
        _read(base, batches[0], torch.cat([own_last, *path], dim=1)),
        _read(untuned, batches[2], torch.cat([untuned_last, *path], dim=1)),
    )  # [B, steps, V] each

    most = torch.tensor([draw.steps - 1 for draw in draws], device=base.device)
    going = torch.ones_like(most, dtype=torch.bool)
    counts = torch.zeros_like(most)
    sampled: list[Tensor] = []
    numbers: list[Tensor] = []
    for step in range(steps):
        logits = [theirs[0][:, step], ours[step], theirs[1][:, step]]
        size = min(known, *(own.shape[1] for own in logits))
        likely = [own.log_softmax(1)[:, :size] for own in logits]
        plain = logits[0][:, :size]
        p, q, d = (
            _log_probabilities(shaper.shaped(own, drafts[:step], None), shaper)
            for own in (plain, shaper.steered(plain, likely[1:]), logits[1][:, :size])
        )
        full = most <= step  # all drafts were accepted, so one more token comes from q
        left = (q.exp() - d.exp()).clamp(min=0).log()
        # Rounding may leave nothing where q and d are as good as equal.
        from_q = full | ~left.isfinite().any(1)
        ids = _picked(torch.where(from_q[:, None], q, left), shaper, draws, step, _LAST)
        counts += going
        if step < len(drafts):
            at = drafts[step][:, None]
            odds = (q.gather(1, at) - d.gather(1, at))[:, 0]
            going = going & ~full & (_log_uniform(draws, step, base.device) < odds)
            ids = torch.where(going, drafts[step], ids)
        at = ids[:, None]
        told = [*(own.gather(1, at) for own in likely), q.gather(1, at) - p.gather(1, at)]
        unwatched = torch.zeros_like(told[0])  # entropy and largest probability
        numbers.append(torch.cat([*told, unwatched, unwatched], dim=1).T)
        sampled.append(ids)
    taken, values = read_chosen(sampled, numbers)
    found = [
        drawn_of(draw, ids[:count], [own[row][:count] for own in values], end_ids, models)
        for row, (draw, ids, count) in enumerate(zip(draws, taken, to_lists(counts), strict=True))
    ]
    for i, batch in enumerate(batches):
        own = [(one.segments[i], row) for row, one in enumerate(found) if not one.ended]
        batch.keep([(segment, row, 0, len(segment.ids)) for segment, row in own])
    return found


def _read(model: CausalLM, batch: Batch, ids: Tensor) -> Tensor:
    return model.forward(batch, ids.to(model.device)).to(ids.device)


def _log_probabilities(shaped: Tensor, shaper: Shaper) -> Tensor:
    """Return what is sampled from as log-probabilities; the best token alone where it is greedy."""
    found = shaped.log_softmax(1)
    if any(shaper.greedy):
        best = torch.full_like(found, float("-inf")).scatter_(1, shaped.argmax(1, True), 0.0)
        cold = torch.tensor(shaper.greedy, device=found.device)[:, None]
        found = torch.where(cold, best, found)
    return found


def _keys(draws: Sequence[Draw], step: int, use: str, device: torch.device) -> Tensor:
    keys = [noise_key(*draw.place, draw.n_tokens + step, use) for draw in draws]
    return torch.tensor(keys, dtype=torch.int32, device=device)


def _picked(logits: Tensor, shaper: Shaper, draws: Sequence[Draw], step: int, use: str) -> Tensor:
    """Sample a token of each row: [B]."""
    noise = log_exponential(_keys(draws, step, use, logits.device), logits.shape[1])
    if any(shaper.greedy):
        noise[torch.tensor(shaper.greedy, device=noise.device)] = 0.0
    return (logits - noise).argmax(1)


def _log_uniform(draws: Sequence[Draw], step: int, device: torch.device) -> Tensor:
    """Return the logarithm of a random number in (0, 1) for each draw: [B]."""
    return -log_exponential(_keys(draws, step, _ACCEPT, device), 1)[:, 0].exp()
