"""Chunks over HTTP, by token ids or by text, join to the whole answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.openai_proposer import GREEDY, ask, connect, greedy_in_chunks, words
from tests.helpers.served import Tiny, Words, serve
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
)
from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.prompts import Message, Prompt
from w2s_chains.errors import ConfigError, PromptError

# By token ids.


def test_token_ids_are_sent_where_the_server_returns_them(
    lm: Tiny, tiny_folders: dict[str, Path]
) -> None:
    """Bytes of unfinished characters are all over the answers of this model: no text has them."""
    prompt, tokenizer = "the film was", lm.tokenizer
    body = {"max_tokens": 20, "temperature": 0, "seed": 0}
    whole = lm.go_on(prompt, body, 0)
    with serve(lm, ids=True) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]))
        assert proposer.capabilities.token_ids
        h = greedy_in_chunks(proposer, prompt, 3, 20)
        assert list(h.response_ids or ()) == [i for i in whole.token_ids or () if i != 1]
        assert h.response == whole.text.rstrip("\ufffd")
        assert h.vocabulary == Tokenizer(tokenizer, PromptTemplate(), []).vocabulary
        read = tokenizer(prompt)["input_ids"]
        assert server.bodies[-1]["prompt"][: len(read)] == read


def test_token_ids_are_sent_without_a_tokenizer_too(lm: Tiny) -> None:
    with serve(lm, ids=True) as server:
        proposer = connect(server)
        [h] = ask(proposer, "the film was", chunk_tokens=1, sampling=GREEDY)
        [h] = ask(proposer, h, chunk_tokens=2, sampling=GREEDY)
        sent = server.bodies[-1]["prompt"]
        assert h.parent is not None
        if h.parent.token_ids is None:  # cut inside a character
            assert sent == "the film was" + h.parent.text
        else:
            assert sent == [*lm.read("the film was"), *h.parent.token_ids]
        assert h.vocabulary is None, "nobody knows what these ids mean"


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_a_search_over_http_equals_the_same_search_here(
    lm: Tiny, tiny_folders: dict[str, Path], pair: GuidePair, foreign_pair: GuidePair, ids: bool
) -> None:
    """The control is the text server: it drops bytes of unfinished characters."""
    options: dict[str, Any] = {"strategy": ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)}
    options |= {"max_tokens": 12, "temperature": 0.0}
    prompts = ["the film was", "I went", "a plot"]
    with serve(lm, ids=ids) as server:
        proposer = connect(server, tokenizer=str(tiny_folders["proposer"]))
        local = HuggingFaceProposer(lm.model, lm.tokenizer)
        told = []
        for guides in (pair, foreign_pair):
            far, near = (
                W2SLLM(proposer=p, scorer=LogRatioScorer(guides), **options).batch(prompts)
                for p in (proposer, local)
            )
            told.append(far == near)
        assert all(told) == ids


def test_the_wrong_tokenizer_is_refused(lm: Tiny, tmp_path: Path) -> None:
    tiny.byte_tokenizer(360, name="other").save_pretrained(tmp_path)
    with serve(lm, ids=True) as server:
        proposer = connect(server, tokenizer=str(tmp_path))
        with pytest.raises(ConfigError, match="is not the one of"):
            ask(proposer, "x")


def test_chat_templates_are_rendered_here(lm: Tiny, tiny_folders: dict[str, Path]) -> None:
    prompt = Prompt(messages=(Message(role="user", content="hi"),))
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    for ids in (True, False):
        with serve(lm, ids=ids) as server:
            proposer = connect(server, tokenizer=str(tiny_folders["proposer"]), chat=True)
            root = Hypothesis.root(prompt)
            ask(proposer, root, chunk_tokens=2)
            sent = server.bodies[-1]["prompt"]
            assert sent == (lm.read(rendered) if ids else rendered)
            injected = Prompt(messages=(Message(role="user", content="<|im_end|>"),))
            if ids:
                ask(proposer, Hypothesis.root(injected), chunk_tokens=2)
                assert server.bodies[-1]["prompt"] != lm.read(rendered.replace("hi", "<|im_end|>"))
            else:
                with pytest.raises(PromptError, match="control tokens"):
                    ask(proposer, Hypothesis.root(injected), chunk_tokens=2)


# By text.


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_text_is_continued_without_loss(chunk: int) -> None:
    with serve(Words()) as server:
        proposer = connect(server)
        for i in range(20):
            assert greedy_in_chunks(proposer, f"p{i}", chunk, 12).response == words(f"p{i}")


class Spaced(Words):
    """Its text is read otherwise where it ends in whitespace, as BPE reads newlines."""

    vocabulary = ("\n", "\n", " ", "one", "two", "three", "four", "five")

    def go_on(self, ids: Any, body: Any, index: int) -> Any:
        assert isinstance(ids, str)
        kept = ids.rstrip()
        return super().go_on(kept + "_" * (len(ids) - len(kept)), body, index)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_greedy_whitespace_at_the_end_comes_again(chunk: int) -> None:
    body = {"max_tokens": 12, "temperature": 0.0, "seed": 0}
    drifted = 0
    with serve(Spaced()) as server:
        proposer = connect(server)
        for i in range(20):
            whole = Spaced().go_on(f"p{i}", body, 0).text
            h = greedy_in_chunks(proposer, f"p{i}", chunk, 12)
            assert (h.response, h.n_tokens) == (whole, 12)
            naive = ""
            for at in range(0, 12, chunk):
                part = {**body, "max_tokens": min(chunk, 12 - at)}
                naive += Spaced().go_on(f"p{i}{naive}", part, 0).text
            drifted += naive != whole
    assert drifted > 3, "control"


class Cut(Words):
    """Two tokens a character; half of one is U+FFFD."""

    def go_on(self, ids: Any, body: Any, index: int) -> Any:
        one = super().go_on(ids, {**body, "max_tokens": (body["max_tokens"] + 1) // 2}, index)
        halves = one.text.replace(" ", "é")
        odd = body["max_tokens"] % 2
        text = halves.rpartition("é")[0] + "\ufffd" if odd else halves
        return type(one)(text=text, count=body["max_tokens"])


def test_half_characters_are_sampled_anew() -> None:
    with serve(Cut()) as server:
        h = greedy_in_chunks(connect(server), "x", 3, 13)
    assert "\ufffd" not in h.response
    assert h.response.count("é") >= 4
