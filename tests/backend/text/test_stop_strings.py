"""Where a text ends: a chunk by strings and words, an answer by stop strings."""

from __future__ import annotations

import pytest

from tests.helpers import tiny
from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.text.stop_strings import cut_at_stop, end_of_chunk, find_stop
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.asks import Until
from w2s_chains.core.hypothesis import Hypothesis


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
        (["x", "y"], Until(strings=("y",), least=3), None),
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


@pytest.mark.parametrize(
    ("stop", "before", "text", "expected"),
    [
        (["b"], "", "abc", 1),
        (["b"], "xa", "bc", 2),
        (["abc"], "xab", "c", 1),
        (["abc"], "xab", "d", None),
        (["ab"], "ab", "c", None),
        (["ab"], "ab", "ab", 2),
        (["bbc", "b"], "", "abbc", 1),
        (["abcd", "bc"], "", "abcd", 1),
        (["cd", "bcd"], "", "abcd", 1),
        (["a"], "", "", None),
        ([], "a", "b", None),
    ],
)
def test_the_stop_string_that_is_complete_first(
    stop: list[str], before: str, text: str, expected: int | None
) -> None:
    assert find_stop(stop, before, text) == expected


def parts(tokenizer: Tokenizer, *texts: str) -> Hypothesis:
    """An answer in chunks of these texts, each with its tokens."""
    node = Hypothesis.root("x")
    for text in texts:
        node = node.extend(text, tuple(tokenizer.encode(text)), vocabulary=tokenizer.vocabulary)
    return node


def test_a_stop_string_in_the_chunk(tokenizer: Tokenizer) -> None:
    parent = parts(tokenizer, "xy")
    ids = tokenizer.encode("abc")
    assert cut_at_stop((), tokenizer, parent, "abc", ids) is None
    assert cut_at_stop(("ya", "d"), tokenizer, parent, "bc", ids) is None
    child = cut_at_stop(("c",), tokenizer, parent, "abc", ids, drift=0.5)
    assert child is not None
    assert (child.parent, child.text, child.token_ids) == (parent, "ab", tuple(ids[:2]))
    assert (child.finish_reason, child.drift, child.n_tokens) == ("stop", 0.5, 4)
    assert child.vocabulary == tokenizer.vocabulary


def test_a_stop_string_that_begins_in_earlier_text(tokenizer: Tokenizer) -> None:
    """The child hangs on the last ancestor before it; its ids are those in between."""
    parent = parts(tokenizer, "uv", "wx", "yz")
    ids, own = tokenizer.encode("abc"), tokenizer.encode
    middle = parent.parent
    assert middle is not None
    for stop, above, text in (
        ("xyza", middle.parent, "w"),
        ("wxyza", middle.parent, ""),
        ("za", middle, "y"),
        ("yza", middle, ""),
        ("a", parent, ""),
        ("uvwxyzabc", parent.origin, ""),
        ("vwxyza", parent.origin, "u"),
    ):
        child = cut_at_stop((stop,), tokenizer, parent, "abc", ids)
        assert child is not None
        assert (child.parent, child.text, child.token_ids) == (above, text, tuple(own(text)))
        assert child.n_tokens == child.n_chars, "in this vocabulary"


def test_texts_without_token_ids_are_counted_whole(tokenizer: Tokenizer) -> None:
    """Nobody knows which tokens a text of another vocabulary would have lost."""
    parent = parts(tokenizer, "uv", "wx")
    foreign = cut_at_stop(("xa",), tokenizer, parent, "abc", None, 0.5, n_tokens=9)
    assert foreign is not None
    assert (foreign.parent, foreign.text, foreign.token_ids) == (parent.parent, "w", None)
    assert (foreign.n_tokens, foreign.drift, foreign.finish_reason) == (2 + 2 + 9, 0.5, "stop")
    bare = cut_at_stop(("a",), tokenizer, parent, "abc", None)
    assert bare is not None
    assert bare.n_tokens == 4
    elsewhere = parts(tokenizer, "uv").extend("wx", n_tokens=5)
    ids = tokenizer.encode("abc")
    child = cut_at_stop(("xa",), tokenizer, elsewhere, "abc", ids)
    assert child is not None
    assert (child.text, child.token_ids, child.vocabulary) == ("w", None, None)
    assert child.n_tokens == 2 + 5 + 3
    after = cut_at_stop(("b",), tokenizer, elsewhere, "abc", ids)
    assert after is not None
    assert (after.parent, after.token_ids, after.n_tokens) == (elsewhere, tuple(ids[:1]), 8)


def test_an_answer_does_not_end_on_an_unfinished_character(tokenizer: Tokenizer) -> None:
    """An ancestor whose last character is unfinished is none to hang on."""
    emoji = tuple(tokenizer.encode("\U0001f600"))
    first = parts(tokenizer, "uv")
    begun = first.extend("w", (*tokenizer.encode("w"), emoji[0]), pending=emoji[:1])
    child = cut_at_stop(
        ("\U0001f600",), tokenizer, begun, "\U0001f600a", [*emoji[1:], *tokenizer.encode("a")]
    )
    assert child is not None
    assert (child.parent, child.text, child.token_ids) == (
        first, "w", tuple(tokenizer.encode("w"))
    )  # fmt: skip


def test_a_text_that_is_cut_inside_a_token_has_no_ids() -> None:
    pieces = Tokenizer(tiny.sentencepiece_tokenizer(), PromptTemplate(), [])
    parent = Hypothesis.root("The movie")
    ids = pieces.encode("was great")
    text, _ = pieces.decode_after(pieces.context(parent), (), ids)
    assert any(len(pieces.decode([i])) > 2 for i in ids), "control: tokens of many letters"
    seen = [
        len(pieces.decode_after(pieces.context(parent), (), ids[:n])[0])
        for n in range(len(ids) + 1)
    ]
    inside = 0
    for at in range(len(text)):
        child = cut_at_stop((text[at:],), pieces, parent, text, ids)
        assert child is not None
        assert child.text == text[:at]
        count = next(n for n, size in enumerate(seen) if size >= at)
        assert child.n_tokens == count
        whole = seen[count] == at
        assert child.token_ids == (tuple(ids[:count]) if whole else None)
        assert child.vocabulary == (pieces.vocabulary if whole else None)
        inside += not whole
    assert 0 < inside < len(text) - 1, "control"
