"""A real server on loopback, and its clients."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from tests.helpers import tiny
from tests.helpers.llms import PROMPT, endless, wait_for_engine
from tests.helpers.polling import until
from w2s_chains import (
    W2SLLM,
    ChatW2S,
    ChunkBeamSearch,
    Engine,
    GuidePair,
    Guides,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    Model,
    SearchStrategy,
)
from w2s_chains.serving.app import create_app
from w2s_chains.serving.catalog import Served
from w2s_chains.serving.limits import Keys, Limits
from w2s_chains.serving.server import DrainingServer, listen


@contextmanager
def serving(*models: Served, **options: Any) -> Generator[httpx.Client]:
    """Serve models in a thread; yields a client whose paths begin at the server's root."""
    with serving_with(*models, **options) as (client, _):
        yield client


@contextmanager
def serving_with(
    *models: Served, keys: Sequence[str] = (), origins: Sequence[str] = (), **limits: Any
) -> Generator[tuple[httpx.Client, DrainingServer]]:
    """As ``serving``, with the server, which can be told to stop."""
    app = create_app(models, Limits(**limits), Keys(keys), origins)
    with listen("127.0.0.1", 0) as listener:
        server = DrainingServer(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                yield client, server
        finally:
            server.drain()
            server.drain()
            thread.join()


def chunks(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events of a stream, which must end as OpenAI's do."""
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(one) for one in data]


def tiny_models() -> tuple[W2SLLM, ChatW2S]:
    """A model for raw text and one for conversations, with weights alike, on one engine."""
    base = tiny.llama(320, seed=1, max_position_embeddings=8192)
    tokenizer = tiny.byte_tokenizer()
    pair = GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer), HuggingFaceGuide(base, tokenizer)
    )
    fields: Any = {
        "scorer": LogRatioScorer(pair),
        "strategy": ChunkBeamSearch(width=2, successors=2, chunk_tokens=4),
        "max_tokens": 12,
        "seed": 0,
        "engine": Engine(),
    }
    model = tiny.llama(320, max_position_embeddings=8192)
    return (
        W2SLLM(proposer=HuggingFaceProposer(model, tokenizer), **fields),
        ChatW2S(proposer=HuggingFaceProposer(model, tokenizer, chat=True), **fields),
    )


def long_body(llm: W2SLLM, strategy: SearchStrategy, tokens: int) -> dict[str, Any]:
    """A request whose answer takes so many calls of the proposer."""
    found = endless(llm, strategy, tokens)
    wait_for_engine()
    return {
        "model": "raw",
        "prompt": PROMPT,
        "seed": found.seed,
        "max_tokens": tokens,
        "w2s": {"strategy": strategy.model_dump()},
    }


@functools.cache
def embedded_chat() -> ChatW2S:
    """SmolLM2 with guides for film reviews, as the standard suites have it in process."""
    return ChatW2S(
        proposer=Model("embedded:smollm2-135m-instruct"),
        guides=Guides(tuned="embedded:reviews-tuned", untuned="embedded:reviews-untuned"),
        strategy=ChunkBeamSearch(width=1, successors=2, chunk_tokens=16),
        max_tokens=44,
        temperature=0.7,
        seed=0,
        engine=Engine(),
    )
