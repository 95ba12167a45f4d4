"""``GrammarState``: which tokens may follow, so that an answer satisfies its grammar to the end.

llguidance reads the grammar and says which tokens it allows. This module adds the token budget.
Every state knows an ending: bytes that complete its text. The invariant is

    tokens of the ending + 1 end token <= tokens left

at every state that ``GrammarState.advance`` returns. A token is refused if no ending after it
keeps the invariant. It holds at the start (``Grammar.check``), and the first token of the ending
itself always keeps it, because the rest of the ending then needs one token fewer. So there is
always an allowed token, and the answer is complete when its tokens are used up, whatever the model
prefers.

Tokens stand for bytes, so a token or chunk may end anywhere inside a character, a number or an
escape. Special tokens are never allowed inside a grammar; end tokens are allowed exactly where the
text may end.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from llguidance import LLMatcher
from torch import Tensor

from w2s_chains.backend.constrained.compile import byte_matcher, llguidance_source, shortest_answer
from w2s_chains.backend.constrained.endings import completes, next_bytes, shortest_ending
from w2s_chains.backend.constrained.vocabulary import Vocabulary
from w2s_chains.backend.constrained.words import words_of
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError

_STATES = 300
"""States that a search for a new ending looks at; the old ending is its hint."""
_TRIES = 8
"""Tokens of a row that may be refused before it takes the first token of its ending."""


class Grammars:
    """The grammars of one model, compiled when they are first needed, on any thread."""

    def __init__(self, text: Tokenizer) -> None:
        """Read the vocabulary, once for all constraints; takes about half a second.

        Raises:
            UnsupportedModelError: The tokenizer is not a fast one.
        """
        self.vocabulary = Vocabulary(text)
        self.compile = functools.lru_cache(maxsize=64)(self._compile)

    def _compile(self, constraint: Constraint) -> Grammar:
        """Compile a constraint for this model's tokens; ``compile`` caches the result.

        Raises:
            ConstraintError: It cannot be honoured, or not with these tokens.
        """
        return Grammar(self.vocabulary, constraint)


class Grammar:
    """A constraint compiled for one vocabulary.

    Attributes:
        start: The state before the first token.
        shortest: Tokens of the shortest known answer, its end token included.
    """

    def __init__(self, vocabulary: Vocabulary, constraint: Constraint) -> None:
        self.vocabulary = vocabulary
        self.constraint = constraint
        self.words = words_of(constraint)
        answer = shortest_answer(constraint, cost=vocabulary.tokens_of)
        matcher = LLMatcher(vocabulary.tokenizer, llguidance_source(constraint), log_level=0)
        _require(matcher)
        self.shortest = int(vocabulary.tokens_of(answer)) + 1
        self.start = GrammarState(self, matcher, byte_matcher(constraint), answer)

    def check(self, max_tokens: int) -> None:
        """Raise ConstraintError if ``max_tokens`` is too low for any answer."""
        if max_tokens < self.shortest:
            raise ConstraintError(
                f"max_tokens is {max_tokens}, but the shortest answer under the "
                f"{self.constraint.kind} constraint takes {self.shortest} tokens with its end "
                f"token; set max_tokens to at least {self.shortest}"
            )


class GrammarState:
    """A grammar after some text: immutable, but to be used by one thread at a time.

    Attributes:
        grammar: The grammar.
        ending: Bytes that complete the text.
        ended: Whether an end token was sampled.
        curtailed: Whether a better token was refused on the way here because of the budget. The
            answer satisfies the grammar, but had to be cut short.
    """

    __slots__ = ("_bytewise", "_mask", "_matcher", "curtailed", "ended", "ending", "grammar")

    def __init__(
        self,
        grammar: Grammar,
        matcher: LLMatcher,
        bytewise: LLMatcher,
        ending: bytes,
        *,
        ended: bool = False,
        curtailed: bool = False,
    ) -> None:
        self.grammar = grammar
        self._matcher = matcher
        self._bytewise = bytewise
        self._mask: Tensor | None = None
        self.ending = ending
        self.ended = ended
        self.curtailed = curtailed

    @property
    def accepting(self) -> bool:
        """Whether the text may end here."""
        return self._bytewise.is_accepting()

    @property
    def complete(self) -> bool:
        """Whether the text must end here."""
        return self.accepting and not next_bytes(self._bytewise)

    @property
    def mask(self) -> Tensor:
        """The allowed tokens, int32 [W]: token i is bit i % 32 of number i // 32."""
        if self._mask is None:
            bits = bytearray(self._matcher.compute_bitmask())
            _require(self._matcher)
            self._mask = torch.frombuffer(bits, dtype=torch.int32)
        return self._mask

    @property
    def way_out(self) -> int:
        """The first token of the ending."""
        spelt = self.grammar.vocabulary.spell(self.ending)
        assert spelt is not None, "an ending that cannot be spelt is never kept"
        return spelt[0] if spelt else min(self.grammar.vocabulary.end_ids)

    def advance(self, token: int, left: int, *, curtailed: bool = False) -> GrammarState | None:
        """Return the state after ``token``; None if the token may not follow.

        Args:
            token: The next token.
            left: Tokens left for the answer, this one and an end token included.
            curtailed: Whether a better token was refused here.
        """
        vocabulary = self.grammar.vocabulary
        curtailed |= self.curtailed
        if self.ended:
            return None
        if token in vocabulary.end_ids:
            if not self.accepting:
                return None
            return GrammarState(
                self.grammar, self._matcher, self._bytewise, b"", ended=True, curtailed=curtailed
            )
        piece = vocabulary.pieces.get(token)
        if piece is None:
            return None
        bytewise = self._bytewise.deep_copy()
        if bytewise.try_consume_tokens(list(piece)) < len(piece):
            return None
        ending = self._ending_after(piece, bytewise, left - 2)
        if ending is None:
            return None
        matcher = self._matcher.deep_copy()
        matcher.consume_token(token)
        _require(matcher)
        return GrammarState(self.grammar, matcher, bytewise, ending, curtailed=curtailed)

    def _ending_after(self, piece: bytes, after: LLMatcher, count: int) -> bytes | None:
        """Find an ending of at most ``count`` tokens after ``piece``."""
        fits = self.grammar.vocabulary.fits
        if self.ending.startswith(piece):
            ending = self.ending[len(piece) :]
        elif completes(after, self.ending):
            ending = self.ending
        else:
            ending = shortest_ending(
                after,
                hint=self.ending,
                words=self.grammar.words,
                most_nodes=_STATES,
                cost=lambda text: 0 if fits(text, count) else len(text),
                enough=0,
            )
        return ending if ending is not None and fits(ending, count) else None


def allowed(states: Sequence[GrammarState | None], size: int, device: torch.device) -> Tensor:
    """Return which tokens may follow: all of them in rows without a state and after an end token.

    Args:
        states: One per row.
        size: Tokens in the table of logits (V); tokens that the tokenizer lacks are never allowed.
        device: Device of the logits.

    Returns:
        Booleans. [B, V]
    """
    live = [row for row, state in enumerate(states) if state is not None and not state.ended]
    mask = torch.ones(len(states), size, dtype=torch.bool, device=device)
    if live:
        packed = torch.stack([s.mask for row in live if (s := states[row])]).to(device)  # [b, W]
        bits = packed[:, :, None] >> torch.arange(32, dtype=torch.int32, device=device)
        bits = bits.bitwise_and_(1).bool().flatten(1)[:, :size]  # [b, <=V]
        mask[live] = torch.nn.functional.pad(bits, (0, size - bits.shape[1]))
    return mask


def choose(
    scores: Tensor, states: Sequence[GrammarState], left: Sequence[int]
) -> tuple[list[int], list[GrammarState]]:
    """Choose the best token of each row that may follow.

    Costs one synchronisation with the device, and one more each time that the best token of some
    row is refused because of the budget. After a few refusals a row takes the first token of its
    ending.

    Args:
        scores: Scores, -inf for all that the sampler forbids; refused tokens are set to -inf in
            place. [B, V]
        states: States that have not ended.
        left: Tokens left in each row, the next one and an end token included.

    Returns:
        The tokens and the states after them.
    """
    chosen: dict[int, tuple[int, GrammarState]] = {}
    refused: set[int] = set()
    for _ in range(_TRIES):
        rows = [row for row in range(len(states)) if row not in chosen]
        if not rows:
            break
        found = _best(scores if len(rows) == len(states) else scores[rows])
        for row, token, score in zip(rows, *found, strict=True):
            if score == float("-inf"):
                continue
            after = states[row].advance(token, left[row], curtailed=row in refused)
            if after is None:
                scores[row, token] = float("-inf")
                refused.add(row)
            else:
                chosen[row] = token, after
    for row, state in enumerate(states):
        if row not in chosen:
            after = state.advance(state.way_out, left[row], curtailed=True)
            assert after is not None, "the way out is always open"
            chosen[row] = state.way_out, after
    ordered = [chosen[row] for row in range(len(states))]
    return [token for token, _ in ordered], [state for _, state in ordered]


def _best(scores: Any) -> tuple[list[int], list[float]]:
    """Return the best token of each row, and its score."""
    best = scores.max(1)
    return best.indices.tolist(), best.values.tolist()


def _require(matcher: LLMatcher) -> None:
    if matcher.is_error():
        raise ConstraintError(f"the constraint is too complex to follow: {matcher.get_error()}")
