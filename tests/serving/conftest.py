from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.helpers.serving import serving, tiny_models
from w2s_chains import W2SLLM, ChatW2S, ChunkBeamSearch
from w2s_chains.serving.catalog import Served

WIDE = ChunkBeamSearch(width=3, successors=2, chunk_tokens=3)


@pytest.fixture(scope="module")
def models() -> tuple[W2SLLM, ChatW2S]:
    return tiny_models()


@pytest.fixture(scope="module")
def llm(models: tuple[W2SLLM, ChatW2S]) -> W2SLLM:
    return models[0]


@pytest.fixture(scope="module")
def chat(models: tuple[W2SLLM, ChatW2S]) -> ChatW2S:
    return models[1]


@pytest.fixture(scope="module")
def client(llm: W2SLLM, chat: ChatW2S) -> Iterator[httpx.Client]:
    """A client of a server with the models "raw" and "chat", each with a search "wide"."""
    strategies = {"wide": WIDE}
    with serving(
        Served(name="raw", model=llm, strategies=strategies),
        Served(name="chat", model=chat, strategies=strategies),
    ) as client:
        yield client
