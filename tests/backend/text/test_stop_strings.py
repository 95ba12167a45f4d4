"""Where the text of a chunk ends it: strings and words, after a least number of tokens."""

from __future__ import annotations

import pytest

from tests.helpers import tiny
from w2s_chains.backend.text.stop_strings import end_of_chunk
from w2s_chains.backend.text.template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.asks import Until


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny.byte_tokenizer(), PromptTemplate(), [])


def end(tokenizer: Tokenizer, pieces: list[str], until: Until, before: str = "") -> int | None:
    """Each piece is one token, in the tests below a character."""
    ids = [token for piece in pieces for token in tokenizer.encode(piece)]
    assert len(ids) == len(pieces)
    return end_of_chunk(until, tokenizer, tokenizer.encode(before), (), ids)


WORD = Until(word=True)


@pytest.mark.parametrize(
    ("pieces", "until", "expected"),
    [
        ([" ", "x", "y", " ", "z"], WORD, 3),
        (["x", " "], WORD, 1),
        (["x", "y"], WORD, None),
        ([" ", "\n", " "], WORD, None),
        ([" ", "\n", "x", "\n"], WORD, 3),
        (["x", " ", "y", " "], Until(word=True, least=2), 3),
        (["x", " "], Until(word=True, least=2), None),
        (["x", "y", "z"], Until(strings=("y",)), 2),
        (["x", "y", "z"], Until(strings=("yz", "zz")), 3),
        (["x", "y", "z"], Until(strings=("w",)), None),
        (["y", "x", "z"], Until(strings=("y",), least=3), 3),
        (["x", " ", "y"], Until(strings=("y",), word=True), 1),
        (["y", " ", "x"], Until(strings=("y",), word=True), 1),
        ([], WORD, None),
    ],
)
def test_a_chunk_ends_where_its_text_says(
    tokenizer: Tokenizer, pieces: list[str], until: Until, expected: int | None
) -> None:
    assert end(tokenizer, pieces, until) == expected
    assert end(tokenizer, pieces, until, before="x ") == expected, "what is before does not count"


def test_an_unfinished_character_belongs_to_its_word(tokenizer: Tokenizer) -> None:
    emoji = tokenizer.encode("\U0001f600")
    assert len(emoji) > 1
    space, letter = tokenizer.encode(" ")[0], tokenizer.encode("x")[0]
    ids = [letter, *emoji, space]
    assert end_of_chunk(WORD, tokenizer, (), (), ids) == len(ids) - 1
    rest = [*emoji[1:], space]
    assert end_of_chunk(WORD, tokenizer, (), emoji[:1], rest) == len(rest) - 1
