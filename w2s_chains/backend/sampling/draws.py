"""``Draw``, one child to be sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2s_chains.backend.kv.segment import Segment
from w2s_chains.core.asks import Until
from w2s_chains.core.sampling import SamplingParams

if TYPE_CHECKING:
    from w2s_chains.backend.constrained.grammar import GrammarState

ALL_TOKENS = 2**24
"""A number of tokens that is all of them, and that float32 can hold."""


def last_id(segment: Segment) -> int:
    """Return the last token of the path that ends with a segment."""
    # A text that is no longer in tokens than the one before it adds none.
    return segment.ids[-1] if segment.ids else segment.path_ids(segment.end - 1)[0]


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
        suppressed: Tokens that are never sampled.
        suppressed_first: Tokens that are not sampled as the first of an answer.
        rank: The first token is the one with this place, from 0, in the order in which tokens are
            drawn without replacement; None draws it independently of the siblings.
        parent_place: Seeds the noise of draws without replacement, which siblings share.
        until: Where the chunk ends earlier, if anywhere.
        begun: Tokens that the chunk has already.
        end_of: Returns how many of a chunk's tokens lie before its end, or None where no end is in
            sight; for what ends it in the text (strings and words).
    """

    parents: tuple[Segment, ...]
    steps: int
    sampling: SamplingParams
    place: tuple[object, ...]
    n_tokens: int
    state: GrammarState | None = None
    weights: tuple[float, ...] = ()
    known: int = ALL_TOKENS
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    rank: int | None = None
    parent_place: tuple[object, ...] = ()
    until: Until | None = None
    begun: int = 0
    end_of: Callable[[Sequence[int]], int | None] | None = None

    @property
    def most_entropy(self) -> float:
        """The most entropy of a token that does not begin another chunk, in nats."""
        limit = None if self.until is None else self.until.entropy
        return math.inf if limit is None else limit

    @property
    def least_top(self) -> float:
        """The least probability of the likeliest token where no other chunk begins."""
        limit = None if self.until is None else self.until.top_probability
        return 0.0 if limit is None else limit

    @property
    def least(self) -> int:
        """Further tokens that the chunk has, wherever it would end."""
        return 0 if self.until is None else max(self.until.least - self.begun, 0)

    @property
    def cost(self) -> int:
        return self.parents[0].end + self.steps

    @property
    def distribution(self) -> tuple[object, ...]:
        """A key that draws share if their first tokens have the same distribution."""
        kept = id(self.sampling), id(self.state), self.rank is None
        return (*map(id, self.parents), *kept, *self.weights)

    @property
    def first_place(self) -> tuple[object, ...]:
        """What seeds the noise of the first token."""
        return self.place if self.rank is None else self.parent_place
