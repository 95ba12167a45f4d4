"""A chat template that nobody reads is warned of, unless that was said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.served import Words, serve
from w2s_chains import W2SLLM, ChatW2S, Guides, Model, Sampling
from w2s_chains.errors import RawPromptWarning


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("chatty")
    tiny.llama(320).save_pretrained(path)
    tiny.byte_tokenizer().save_pretrained(path)
    return str(path)


def made(kind: Any, **fields: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        kind(strategy=Sampling(), **fields)
    return [str(one.message) for one in found if issubclass(one.category, RawPromptWarning)]


def test_a_template_that_is_not_used_is_warned_of(folder: str) -> None:
    [told] = made(W2SLLM, proposer=folder)
    assert folder in told
    assert "set chat to true" in told
    silent = Model(folder, chat=True)
    told = made(W2SLLM, proposer=silent, guides=Guides(tuned=folder, untuned=folder))
    assert told == [], "guides are often tuned on raw text, whatever their tokenizer brings along"


@pytest.mark.parametrize(
    "choice", [{"chat": False}, {"chat": True}, {"chat": "auto"}, {"template": "A: {prompt}"}]
)
def test_a_choice_is_silent(folder: str, choice: dict[str, Any]) -> None:
    assert made(W2SLLM, proposer=Model(folder, **choice)) == []
    assert made(ChatW2S, proposer=Model(folder, **choice)) == []


def test_a_chat_model_of_a_name_reads_the_template(folder: str) -> None:
    assert made(ChatW2S, proposer=folder) == []


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, 1),
        ({"chat": False}, 0),
        ({"template": "Q: {prompt}"}, 0),
        ({"tokenizer": "FOLDER"}, 0),
    ],
)
def test_a_server_that_gets_plain_turns_is_warned_of(
    folder: str, options: dict[str, Any], warned: int
) -> None:
    if "tokenizer" in options:
        options = {"tokenizer": folder}
    with serve(Words()) as server, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        proposer = {"type": "openai", "model": "m", "base_url": server.url, **options}
        chat = ChatW2S(proposer=proposer, strategy=Sampling(), max_tokens=4)
        chat.batch(["hi", "ho"])
        chat.invoke("hi")
    told = [str(one.message) for one in found if one.category is RawPromptWarning]
    assert len(told) == warned, told
    assert all("set tokenizer" in one for one in told)
