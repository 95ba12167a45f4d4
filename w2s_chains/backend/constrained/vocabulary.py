"""``Vocabulary``: a model's tokens as bytes, and the fewest tokens that spell a text."""

from __future__ import annotations

import functools

from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer

from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.errors import UnsupportedModelError

_LONGEST_PIECE = 16
"""Longest token, in bytes, that is used to spell a text."""


class Vocabulary:
    """One model's tokens as bytes."""

    def __init__(self, text: Tokenizer) -> None:
        """Read the bytes of all tokens.

        Raises:
            UnsupportedModelError: The tokenizer is not a fast one.
        """
        self.end_ids = frozenset(text.end_ids)
        try:
            self.tokenizer: LLTokenizer = from_tokenizer(
                text.hf_tokenizer, eos_token=sorted(self.end_ids)
            )
        except ValueError as error:
            raise UnsupportedModelError(
                f"answers of {text.name!r} cannot be constrained: {error}; constraints need a "
                "tokenizer of the tokenizers library (a 'fast' one)"
            ) from error
        self.size: int = self.tokenizer.vocab_size
        special = self.tokenizer.is_special_token
        self.pieces: dict[int, bytes] = {
            token: piece
            for token in range(self.size)
            if token not in self.end_ids
            and not special(token)
            and (piece := self.tokenizer.decode_bytes([token]))
        }
        self._ids = {piece: token for token, piece in reversed(self.pieces.items())}
        self._single = {piece[0] for piece in self._ids if len(piece) == 1}
        self._longest = min(max(map(len, self._ids), default=0), _LONGEST_PIECE)
        self.spell = functools.lru_cache(maxsize=4096)(self._spell)

    def _spell(self, text: bytes) -> tuple[int, ...] | None:
        """Return the fewest tokens that spell ``text``; None if none do."""
        best: list[tuple[int, int, int] | None] = [None] * len(text) + [(0, -1, 0)]
        for at in reversed(range(len(text))):
            for end in range(at + 1, min(at + self._longest, len(text)) + 1):
                rest, token = best[end], self._ids.get(text[at:end])
                if rest is not None and token is not None:
                    best[at] = min(best[at] or (rest[0] + 2, 0, 0), (rest[0] + 1, -end, token))
        if best[0] is None:
            return None
        tokens: list[int] = []
        at = 0
        while at < len(text):
            _, end, token = best[at] or (0, 0, 0)
            tokens.append(token)
            at = -end
        return tuple(tokens)

    def tokens_of(self, text: bytes) -> float:
        """Return the smallest number of tokens that spell ``text``; infinite if none do."""
        spelt = self.spell(text)
        return float("inf") if spelt is None else len(spelt)

    def fits(self, text: bytes, count: int) -> bool:
        """Check whether at most ``count`` tokens spell ``text``; mostly without counting them."""
        quick = len(text) <= count and self._single.issuperset(text)
        return quick or self.tokens_of(text) <= count
