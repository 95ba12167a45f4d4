"""Scores of single tokens with the tokens' texts, which are the answer however it is cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    BaseGuidePair,
    ConfigError,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    SamplingParams,
    ScorerError,
    TokenScores,
)
from w2s_chains.backend.text.tokenizer import Tokenizer


def composing() -> PreTrainedTokenizerFast:
    """A tokenizer that composes characters, as Qwen's does."""
    tokenizer = copy.deepcopy(tiny.byte_tokenizer())
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


TOKENIZERS = {
    "bytes": tiny.byte_tokenizer(),
    "bytes-bos": tiny.byte_tokenizer(bos=True),
    "composing": composing(),
    "pieces": tiny.sentencepiece_tokenizer(),
    "unigrams": tiny.unigram_tokenizer(),
    "words": tiny.wordpiece_tokenizer(),
}
BASE = tiny.llama(420, seed=1)
PAIRS = {
    name: GuidePair(
        HuggingFaceGuide(tiny.noisy(BASE), tokenizer), HuggingFaceGuide(BASE, tokenizer)
    )
    for name, tokenizer in TOKENIZERS.items()
}


def scored(name: str, prompt: str, text: str, end: bool = False) -> TokenScores:
    h = Hypothesis.root(prompt).extend(text, finish_reason="eos" if end else None)
    [found] = PAIRS[name].token_scores([h])
    return found


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
made_of = st.lists(
    st.sampled_from(
        (
            *("the movie", " was", " great", "  ", "\n", "\t", "電", "影", " 映画", "é", "e\u0301"),
            *("\u0301", "\u0323", "😀", "👩🏽\u200d🚀", "\ufffd", "</s>", "<|im_end|>", "▁", "İ"),
            *("ﬁ", "<0x41>", "\x00", "x" * 9),
        )
    ),
    max_size=8,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(TOKENIZERS)),
    prompt=anything | made_of,
    text=anything | made_of,
    end=st.booleans(),
)
def test_the_pieces_are_the_text_and_the_ratios_the_score(
    name: str, prompt: str, text: str, end: bool
) -> None:
    pair = PAIRS[name]
    h = Hypothesis.root(f"x{prompt}").extend(text, finish_reason="eos" if end else "length")
    [found] = pair.token_scores([h])
    [(tuned, untuned)] = pair.loglikelihoods([h])
    assume(len(found.texts) > end or not text)  # word pieces have no token for a space
    assert "".join(found.texts) == text
    assert found.ended == end
    assert sum(found.tuned) == pytest.approx(tuned, abs=1e-3)
    assert sum(found.untuned) == pytest.approx(untuned, abs=1e-3)
    assert [found.ratios] == pair.token_ratios([h])
    if end:
        assert found.texts[-1] == ""
    if end and TOKENIZERS[name].eos_token_id is not None:
        assert sum(found.ratios[:-1]) != pytest.approx(tuned - untuned, abs=1e-6), "control"


@pytest.mark.parametrize(
    ("name", "prompt", "text", "pieces"),
    [
        ("bytes", "a", "😀b", ["", "", "😀", "b"]),
        ("bytes", "a", " 電x", [" ", "", "", "電", "x"]),
        ("bytes", "a", "e\u0301", ["e", "", "\u0301"]),
        ("bytes", "the movie", " was", [" was"]),
        ("pieces", "the movie", " was", [" was"]),
        ("pieces", "a", "電", ["", "", "電"]),
        ("pieces", "a", " 😀 a", [" ", "", "", "", "😀", " a"]),
        ("unigrams", "a", " 😀", [" ", "😀"]),
        # A token that begins in the prompt.
        ("bytes", "The movie ", "was", ["was"]),
        ("bytes", "The mov", "ie was", ["ie", " was"]),
        # The tokens are those of other text: composed, or in lower case.
        ("composing", "a", "e\u0301 e\u0301x", ["", "e\u0301", " ", "", "e\u0301", "x"]),
        ("words", "x", " Was GREAT, ﬁ", [" Was", " GREAT", ",", " ﬁ"]),
        # Control tokens that the text spells are letters.
        ("bytes", "a", "</s>", ["<", "/", "s", ">"]),
    ],
)
def test_a_piece_is_what_its_token_adds(
    name: str, prompt: str, text: str, pieces: list[str]
) -> None:
    assert list(scored(name, prompt, text).texts) == pieces
    assert list(scored(name, prompt, text, end=True).texts) == [*pieces, ""]


def test_composed_text_needs_the_places() -> None:
    """Control: what the tokens spell is another text."""
    tokenizer = both_guides(PAIRS["composing"])[0].tokenizer
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "é"


def chunks(proposer: HuggingFaceProposer, root: Hypothesis) -> list[Hypothesis]:
    """Chunks of sampled tokens, of which many end inside a character or with the turn."""
    proposer.tokenizer.end_ids = tuple(range(0, 320, 17))
    sampling = SamplingParams(max_tokens=24, temperature=1.5)
    first = proposer.propose(
        [Expand(hypotheses=(root,), successors=12, chunk_tokens=5, sampling=sampling)]
    )[0]
    assert not isinstance(first, Exception)
    live = tuple(h for h in first if not h.finished)
    more = proposer.propose([Expand(hypotheses=live, sampling=sampling)])[0]
    assert not isinstance(more, Exception)
    return first + more


@pytest.mark.parametrize("kind", ["pair", "foreign_pair"])
def test_sampled_chunks(
    proposer: HuggingFaceProposer, request: pytest.FixtureRequest, kind: str
) -> None:
    pair: GuidePair = request.getfixturevalue(kind)
    found = chunks(proposer, Hypothesis.root("The movie was great and"))
    assert any(h.pending for h in found)
    for h, own in zip(found, pair.token_scores(found), strict=True):
        assert "".join(own.texts) == h.response
        if kind == "pair":
            assert len(own.texts) == len(h.response_ids or ()) + h.ended


def test_nothing_is_read_twice(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    root = Hypothesis.root("The movie was great and")
    found = chunks(proposer, root)
    guides = both_guides(pair)

    def counted() -> list[int]:
        return [guide.lm.counters.forwards for guide in guides] + [root.usage.guide_tokens]

    pair.loglikelihoods(found)
    read = counted()
    pair.token_scores(found)
    pair.token_ratios(found)
    pair.token_scores(found[::-1])
    assert counted() == read
    pair.token_scores([root.extend("x")])
    assert counted() > read, "control: a new text is read"


def test_the_work_is_linear_in_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = [0]
    plain = Tokenizer.decode

    def counting(self: Tokenizer, ids: Sequence[int]) -> str:
        decoded[0] += len(ids)
        return plain(self, ids)

    monkeypatch.setattr(Tokenizer, "decode", counting)

    def work(count: int) -> float:
        decoded[0] = 0
        tokens = len(scored("bytes", "x", "the movie 😀 " * count).texts)
        return decoded[0] / tokens

    assert work(16) < 1.1 * work(8) < 60


# What is refused.


class Own:
    """Guides of another package."""

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        return [(1.0, 0.0) for _ in hypotheses]


class Telling(Own):
    def token_scores(self, hypotheses: Sequence[Hypothesis]) -> list[TokenScores]:
        return [TokenScores(texts=(h.response,), tuned=(1.0,), untuned=(0.5,)) for h in hypotheses]


def test_who_cannot_tell_says_so() -> None:
    with pytest.raises(ConfigError, match="more than the guide pair Own can tell"):
        BaseGuidePair.of(Own()).check_token_scores()
    own: Any = BaseGuidePair.of(Telling())
    own.check_token_scores()
    assert own.token_scores([Hypothesis.root("x").extend("y")])[0].ratios == (0.5,)


def test_two_vocabularies_are_refused(pair: GuidePair, foreign_pair: GuidePair) -> None:
    mixed = GuidePair(pair.tuned, foreign_pair.untuned)
    h = Hypothesis.root("x").extend("y")
    for ask in (mixed.check_token_scores, lambda: mixed.token_scores([h])):
        with pytest.raises(ConfigError, match="two local guides with one vocabulary"):
            ask()
    assert mixed.loglikelihoods([h]), "control: totals work"


def test_of_each_there_is_one_per_token() -> None:
    with pytest.raises(ScorerError, match="2 texts of tokens, 1 values"):
        TokenScores(texts=("a", "b"), tuned=(1.0,), untuned=(1.0, 2.0))
