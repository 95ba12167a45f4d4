"""``Chooser`` picks the next tokens of all draws.

Siblings share the logits after their parent. So what shapes a distribution (penalties, grammars,
temperature and filters) is computed once per row of logits, and only the noise for each sibling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from w2s_chains.backend.lm.logits import gumbel_argmax, log_exponential, tiles
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.shaping import LEAST, Shaper
from w2s_chains.core.sampling import noise_key

if TYPE_CHECKING:
    from w2s_chains.backend.constrained.grammar import GrammarState

_MANY = 3
"""So many siblings pay for ``gumbel_argmax``, where noise is made in tiles."""


class Chooser:
    """Chooses tokens: for each row of logits the next token of each of its draws.

    Attributes:
        states: The grammar state of each draw after the tokens chosen so far. [B * width]
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Draw]],
        states: Sequence[GrammarState | None],
        steps: Sequence[int],
        device: torch.device,
    ) -> None:
        """Prepare some steps.

        Args:
            rows: The draws of each row of logits, equally many, which share their distribution.
            states: The grammar state of each draw before these steps. [B * width]
            steps: Numbers of the tokens to choose, counted from the parent.
            device: Device of the logits.
        """
        first = [own[0] for own in rows]
        self._draws = [draw for own in rows for draw in own]
        self._width = len(rows[0])
        self._known = min(draw.known for draw in first)
        self._shaper = Shaper(first, device)
        self.states = list(states)
        # Rows whose first tokens are drawn without replacement, and all other draws.
        self._without = [row for row, draw in enumerate(first) if draw.rank is not None]
        self._with = [slot for slot, draw in enumerate(self._draws) if draw.rank is None]
        self._watches_entropy = any(math.isfinite(draw.most_entropy) for draw in self._draws)
        self._watches_top = any(draw.least_top > 0 for draw in self._draws)
        greedy = self._shaper.greedy
        self._cold = torch.tensor(greedy, device=device)[:, None] if any(greedy) else None
        self._keys: dict[int, Tensor] = {}
        if not all(greedy):
            keys = [
                [
                    noise_key(*(draw.place if step else draw.first_place), draw.n_tokens + step)
                    for draw in self._draws
                ]
                for step in steps
            ]
            packed = torch.tensor(keys, dtype=torch.int32, device=device)  # [steps, B * width, 2]
            self._keys = dict(zip(steps, packed, strict=True))

    def __call__(
        self, tables: Sequence[Tensor], step: int, sampled: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Choose the next tokens.

        Args:
            tables: Logits of each model. [B, V] each
            step: Number of the token, counted from the parent.
            sampled: Tokens chosen since the parent. [B] each

        Returns:
            The tokens [B * width]; and a table [models + 3, B * width]: their log-probabilities
            under each model, at temperature 1 and unfiltered; what steering added to the
            log-probability that they were sampled with; and of the first model's distribution the
            entropy, in nats, and the largest probability, each 0 if no draw has a limit for it.
        """
        # Models may pad the same vocabulary to different sizes: use the part that all have.
        size = min(self._known, *(table.shape[1] for table in tables))
        known = [table.log_softmax(1)[:, :size] for table in tables]
        base = tables[0][:, :size]
        live = {
            slot
            for slot, (state, draw) in enumerate(zip(self.states, self._draws, strict=True))
            if state is not None and not state.ended and step < draw.steps
        }
        allowed = self._allowed(base) if live else None
        logits = self._shaper.shaped(self._shaper.steered(base, known[1:]), sampled, allowed)
        ids = self._pick(logits, step, live)
        at = ids.view(-1, self._width)
        likely = [own.gather(1, at.to(own.device)).to(ids.device) for own in known]
        drift = torch.zeros_like(likely[0])
        if len(tables) > 1:
            base = self._shaper.shaped(base, sampled, allowed)
            drift = logits.log_softmax(1).gather(1, at) - base.log_softmax(1).gather(1, at)
        entropy, top = torch.zeros_like(drift), torch.zeros_like(drift)
        if self._watches_entropy:
            # A token of probability 0 adds nothing: 0 * -inf would be NaN.
            own = known[0].exp() * known[0].clamp(min=LEAST)
            entropy = entropy - own.sum(1, keepdim=True)
        if self._watches_top:
            top = top + known[0].amax(1, keepdim=True).exp()
        return ids, torch.stack([*likely, drift, entropy, top]).flatten(1)

    def _allowed(self, logits: Tensor) -> Tensor:
        from w2s_chains.backend.constrained.grammar import allowed

        return allowed(self.states[:: self._width], logits.shape[1], logits.device)

    def _pick(self, logits: Tensor, step: int, live: Set[int]) -> Tensor:
        """Pick the best tokens after adding noise; draws ``live`` also follow their grammar."""
        without = () if step else self._without
        slots = self._with if without else range(len(self._draws))
        parts = [slots[part] for part in tiles(logits, len(slots))]
        if len(parts) > 1 and (width := self._width) >= _MANY and self._keys and not live:
            families = [slots[at : at + width] for at in range(0, len(slots), width)]
            picked = [self._of_siblings(logits, own, step) for own in families]
        else:
            picked = [self._independent(logits, own, step, live) for own in parts]
        if not without:
            return torch.cat(picked)
        ids = logits.new_empty(len(self._draws), dtype=torch.long)
        if slots:
            ids[torch.tensor(slots, device=ids.device)] = torch.cat(picked)
        for part in tiles(logits, len(without)):
            rows = without[part]
            place = torch.tensor(rows, device=ids.device)
            ids.view(-1, self._width)[place] = self._distinct(logits, rows, live)
        return ids

    def _of_siblings(self, logits: Tensor, slots: Sequence[int], step: int) -> Tensor:
        """Pick a token for each sibling of a row."""
        row = slots[0] // self._width
        if self._shaper.greedy[row]:
            return logits[row].argmax().expand(len(slots))
        return gumbel_argmax(logits[row], self._keys[step][slots[0] : slots[-1] + 1])

    def _independent(
        self, logits: Tensor, slots: Sequence[int], step: int, live: Set[int]
    ) -> Tensor:
        """Pick a token for each of some draws, whatever their siblings get."""
        scores = self._noised(logits, [slot // self._width for slot in slots], slots, step)
        ids = scores.argmax(1)
        if following := [i for i, slot in enumerate(slots) if slot in live]:
            chosen = self._follow(scores[following], [slots[i] for i in following], step)
            ids[following] = torch.tensor(chosen, device=ids.device)
        return ids

    def _distinct(self, logits: Tensor, rows: Sequence[int], live: Set[int]) -> Tensor:
        """Pick other tokens for all siblings, without replacement (Kool et al., 2019): [b, width].

        Where fewer tokens can be sampled than there are siblings, the first ones are taken again.
        """
        slots = [row * self._width for row in rows]
        draws = [self._draws[slot : slot + self._width] for slot in slots]
        scores = self._noised(logits, rows, slots, 0)
        known = [[draw.rank or 0 for draw in own] for own in draws]
        best = scores.topk(min(max(map(max, known)) + 1, scores.shape[1]), dim=1)
        ranks = torch.tensor(known, device=scores.device)
        count = best.values.isfinite().sum(1, keepdim=True).clamp(min=1)
        ids = best.indices.gather(1, ranks % count)
        for i, slot in enumerate(slots):
            if slot in live:
                ids[i] = torch.tensor(self._distinct_live(scores[i], slot), device=ids.device)
        return ids

    def _distinct_live(self, scores: Tensor, slot: int) -> list[int]:
        """Pick other tokens for all siblings of a row whose grammar goes on."""
        siblings = range(slot, slot + self._width)
        ranks = [self._draws[sibling].rank or 0 for sibling in siblings]
        state = self.states[slot]
        found: list[tuple[int, GrammarState | None]] = []
        while len(found) <= max(ranks) and (not found or bool(scores.isfinite().any())):
            [token] = self._follow(scores[None], [slot], 0)
            if token in [known for known, _ in found]:
                break
            found.append((token, self.states[slot]))
            self.states[slot] = state
            scores[token] = float("-inf")
        taken = [found[rank % len(found)] for rank in ranks]
        for sibling, (_, after) in zip(siblings, taken, strict=True):
            self.states[sibling] = after
        return [token for token, _ in taken]

    def _noised(
        self, logits: Tensor, rows: Sequence[int], slots: Sequence[int], step: int
    ) -> Tensor:
        """Add the noise of some draws to the logits of their rows: the best token is a sample."""
        every = len(rows) == len(logits) and self._width == 1
        place = slice(None) if every else torch.tensor(rows, device=logits.device)
        own = logits[place]
        if step not in self._keys:
            return own
        keys = self._keys[step]
        if len(slots) < len(keys):
            keys = keys[torch.tensor(slots, device=keys.device)]
        noise = log_exponential(keys, logits.shape[1])
        if self._cold is not None:
            noise.masked_fill_(self._cold[place], 0.0)
        return own - noise

    def _follow(self, scores: Tensor, slots: Sequence[int], step: int) -> list[int]:
        """Pick the best tokens that the grammars of some draws allow, and go on in them."""
        from w2s_chains.backend.constrained.grammar import choose

        states = [state for slot in slots if (state := self.states[slot])]
        left = [
            self._draws[slot].sampling.max_tokens - self._draws[slot].n_tokens for slot in slots
        ]
        chosen, after = choose(scores, states, [own - step for own in left])
        for slot, state in zip(slots, after, strict=True):
            self.states[slot] = state
        return chosen
