"""LangChain's models that call servers by OpenAI's package: nobody reads what nobody waits for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import openai
import pytest

from tests.helpers.faulty import FaultyServer, serving
from w2s_chains.backend.remote.langchain_models import named_chat_model
from w2s_chains.backend.remote.threads import ThreadCall, Threads
from w2s_chains.errors import ServerError


@pytest.fixture(params=["hangs", "trickles"])
def server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyServer]:
    with serving(request.param) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        server.on = True
        yield server


def call(timeout: float, retries: int = 0) -> ThreadCall[object]:
    model = named_chat_model("openai:judge", max_retries=retries)
    return Threads(1, timeout).start(partial(model.invoke, "Grade it"))


def test_a_call_ends_with_its_time(server: FaultyServer) -> None:
    """The package's own limit is ten minutes, and none for a server that trickles."""
    error = call(0.1).future.exception(timeout=10)
    kind = {"hangs": openai.APITimeoutError, "trickles": ServerError}
    assert isinstance(error, kind[str(server.fault)])


@pytest.mark.parametrize("server", ["hangs"], indirect=True)
def test_a_call_that_is_late_is_not_tried_again(server: FaultyServer) -> None:
    error = call(0.1, retries=5).future.exception(timeout=10)
    assert isinstance(error, ServerError)
    assert "has not answered within the time limit; raise timeout" in str(error)
    assert server.requests == 1


@pytest.mark.parametrize("server", ["trickles"], indirect=True)
def test_a_call_that_is_abandoned_ends(server: FaultyServer) -> None:
    started = call(60.0)
    with pytest.raises(TimeoutError):
        started.future.exception(timeout=0.2)  # control: it reads
    started.abandon()
    assert isinstance(started.future.exception(timeout=10), ServerError)
