"""A guide of another vocabulary works on the end of a text only, and reads what it should."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers import tiny
from w2s_chains import HuggingFaceGuide, Hypothesis
from w2s_chains.backend.kv.segment import Segment

WORDS = [" the", " movie", "s", " was", " great", ",", " and", " 電影", "!", "\n", " x", "y"]


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, hf_tokenizer: Any) -> None:
        self._tokenizer = hf_tokenizer
        self.characters = 0

    def __call__(self, text: str | list[str], **how: Any) -> Any:
        self.characters += len(text) if isinstance(text, str) else sum(map(len, text))
        return self._tokenizer(text, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def work(guide: HuggingFaceGuide, repeats: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters that are tokenised, and tokens compared, for each step after a long prompt."""
    root = Hypothesis.root("The movie was great and the plot " * repeats)
    guide.loglikelihood([root.extend(" so")])  # the prompt is read, and its last place found
    counting = Counting(guide.tokenizer.hf_tokenizer)
    monkeypatch.setattr(guide.tokenizer, "hf_tokenizer", counting)
    gathered: list[int] = []
    path_ids = Segment.path_ids

    def watch(segment: Segment, begin: int = 0) -> list[int]:
        ids = path_ids(segment, begin)
        gathered.append(len(ids))
        return ids

    monkeypatch.setattr(Segment, "path_ids", watch)
    node, spent = root, list[int]()
    for word in WORDS:
        counting.characters = 0
        gathered.clear()
        guide.loglikelihood([node.extend(f"{word}{end}") for end in ("", " a", " b")])
        spent.append(counting.characters + sum(gathered))
        node = node.extend(word)
        guide.loglikelihood([node])
    monkeypatch.undo()
    return spent


def test_a_step_costs_the_same_however_long_the_text_is(monkeypatch):
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    short, long = (work(guide, repeats, monkeypatch) for repeats in (2, 12))
    assert short == long
    assert max(short) <= 100
    uncut = HuggingFaceGuide(tiny.llama(400), tiny.sentencepiece_tokenizer())
    assert min(work(uncut, 2, monkeypatch)) > 3 * 2 * len("The movie was great and the plot "), (
        "the control"
    )


@pytest.mark.parametrize("own", [(True, False), (False, True)], ids=["ids-text", "text-ids"])
def test_chunks_with_and_without_ids_of_this_vocabulary_mix(own):
    """From the first chunk without such ids on, prompt and answer are one text."""
    guide = HuggingFaceGuide(tiny.llama(320), tiny.byte_tokenizer())
    node = Hypothesis.root("The movie wa")
    retold = False
    for at in range(8):
        text = ("s gre", "at an", "d the", " plo")[at % 4]
        by_ids = own[at // 4]
        retold |= not by_ids
        # One token for each character, as no tokenizer would write it.
        ids = tuple(guide.tokenizer.encode(one)[0] for one in text)
        vocabulary = guide.tokenizer.vocabulary if by_ids else None
        node, sibling = node.extend(text, ids, vocabulary=vocabulary), node.extend(text)
        guide.loglikelihood([node, sibling])
        prompt = guide.tokenizer.prompt_ids(node.prompt)
        whole = guide.tokenizer.ids_with_response(node.prompt, node.response)
        if not retold:
            assert node.response_ids is not None
            assert tuple(guide.paths[node].path_ids()) == prompt + node.response_ids != whole
        else:
            assert tuple(guide.paths[node].path_ids()) == whole
