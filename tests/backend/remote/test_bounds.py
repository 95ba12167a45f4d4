"""Replies are bounded in bytes, time, tokens and numbers; waiting is, too."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from tests.helpers.faulty import FaultyServer, completion, serving
from tests.helpers.openai_proposer import ask
from tests.helpers.served import Continued, Words, serve
from w2s_chains import SamplingParams
from w2s_chains.backend.remote.http import _seconds
from w2s_chains.backend.remote.replies import Asked, BrokenReplyError, Reply
from w2s_chains.errors import ServerError
from w2s_chains.proposers import OpenAIProposer

BODY: dict[str, Any] = {"prompt": "Say it", "max_tokens": 8, "temperature": 0.0, "logprobs": 1}


def parsed(change: Callable[[dict[str, Any]], Any], **fields: Any) -> Reply:
    body = {**BODY, **fields}
    reply = completion(body)
    change(reply)
    return Reply.parse(json.dumps(reply).encode(), Asked.of(body))


def first(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda reply: reply["choices"][0].update(fields)


def usage(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda reply: reply["usage"].update(fields)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (first(text=" word" * 49), "as 8 tokens"),
        (first(text="x" * 3000), "as 8 tokens"),
        (usage(completion_tokens=13), "13 tokens in 1 choices of at most 8"),
        (usage(completion_tokens=0), "as 0 tokens"),
        (usage(completion_tokens=-1), "greater than or equal to 0"),
        (usage(completion_tokens=1.5), "integer"),
        (usage(prompt_tokens=10**6), "1000000 prompt tokens"),
        (usage(prompt_tokens=2**40), "less than"),
        (first(token_ids=[*range(13)]), "13 token ids"),
        (first(token_ids=[-1]), "greater than or equal to 0"),
        (first(token_ids=[2**31]), "less than"),
        (first(token_ids=[]), "as 0 tokens"),
        (first(prompt_token_ids=[1] * 100), "100 token ids of the prompt"),
        (first(index=1), r"indexes \[1\]"),
        (first(index=-1), r"indexes \[-1\]"),
        (first(logprobs={"tokens": ["a"], "token_logprobs": []}), "1 tokens have 0"),
        (first(logprobs={"tokens": ["a"], "token_logprobs": [0.5]}), "0.5 is no log-prob"),
        (first(logprobs={"tokens": ["a"], "token_logprobs": [float("-inf")]}), "no log-prob"),
        (first(logprobs={"tokens": ["a"] * 50, "token_logprobs": [-1.0] * 50}), "of 50 tokens"),
        (lambda reply: reply["choices"].append(reply["choices"][0]), "2 choices where 1"),
    ],
)
def test_replies_that_cannot_be(change: Any, told: str) -> None:
    with pytest.raises((BrokenReplyError, ValueError), match=told):
        parsed(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: None,
        usage(completion_tokens=12),  # llama.cpp completes a character
        lambda reply: reply.pop("usage"),
        lambda reply: reply["choices"][0].pop("index"),
        first(text="\n" * 1000),  # tokens of 128 line breaks
        first(text="語" * 16),
        first(text=""),
        first(finish_reason="stop", token_ids=[5, 6, 2]),
        first(logprobs={"tokens": ["a"], "token_logprobs": [-9999.0]}),  # OpenAI's minus infinity
        first(logprobs={"tokens": ["a"], "token_logprobs": [None]}),
        first(prompt_token_ids=[1, *range(7)]),  # with a start token
        lambda reply: reply.update(id="x", system_fingerprint=None, prompt_logprobs=None),
    ],
)
def test_replies_that_real_servers_send(change: Any) -> None:
    assert parsed(change).choices


def test_choices_come_in_their_order() -> None:
    reply = parsed(lambda reply: reply["choices"].reverse(), n=3, temperature=1.0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    with pytest.raises(BrokenReplyError, match="indexes"):
        parsed(lambda reply: [one.update(index=0) for one in reply["choices"]], n=3)


def connect(server: FaultyServer, **options: Any) -> OpenAIProposer:
    options = {"max_retries": 0, "timeout": 3.0, "backoff": 0.01, **options}
    return OpenAIProposer("m", base_url=server.url, **options)


@pytest.mark.parametrize("fault", ["gzip bomb", "endless"])
def test_the_error_says_the_bound(fault: str) -> None:
    with serving(fault) as server:
        server.on = True
        begun = time.monotonic()
        with pytest.raises(ServerError, match=r"longer than 1,\d\d\d,\d\d\d bytes"):
            ask(connect(server, max_retries=5), "x")
        assert time.monotonic() - begun < 3
        assert server.requests == 1, "it will not be shorter the next time"


def test_a_reply_may_be_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(handler: Any, status: int, content: bytes) -> None:
        packed = gzip.compress(content)
        handler.send_response(status)
        handler.send_header("content-encoding", "gzip")
        handler.send_header("content-length", str(len(packed)))
        handler.end_headers()
        handler.wfile.write(packed)

    with serving() as server:
        plain = ask(connect(server), "x")[0].text
        monkeypatch.setattr(server.RequestHandlerClass, "send", send)
        assert ask(connect(server), "x")[0].text == plain


@pytest.mark.parametrize("fault", ["hangs", "trickles"])
def test_the_timeout_is_for_the_whole_reply(fault: str) -> None:
    with serving(fault) as server:
        server.on = True
        begun = time.monotonic()
        with pytest.raises(ServerError, match=r"no answer within 0\.3 seconds"):
            ask(connect(server, timeout=0.3), "x")
        assert time.monotonic() - begun < 2


def test_headers_are_bounded() -> None:
    with serving("huge headers") as server:
        server.on = True
        with pytest.raises(ServerError, match="longer than 100 KiB"):
            ask(connect(server, max_retries=5), "x")
        assert server.requests == 1


@pytest.mark.parametrize("fault", ["busy until a date", "busy for ever"])
def test_nobody_waits_longer_than_the_timeout(fault: str) -> None:
    with serving(fault) as server:
        server.on = True
        begun = time.monotonic()
        with pytest.raises(ServerError, match=r"429.*asks to wait \d+ seconds \(Retry-After\)"):
            ask(connect(server, max_retries=3), "x")
        assert time.monotonic() - begun < 2
        assert server.requests == 1


def test_what_retry_after_says() -> None:
    assert _seconds("7") == 7.0
    assert _seconds("0.25") == 0.25
    assert 55 < _seconds(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert _seconds(formatdate(time.time() - 60, usegmt=True)) == 0
    for nothing in (None, "-3", "nan", "soon", "Mon, 99 Foo 2026"):
        assert _seconds(nothing) == 0
    assert _seconds("inf") == float("inf")


def test_a_date_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        proposer = connect(server, max_retries=1)
        ask(proposer, "x")

        def send(handler: Any, status: int, content: bytes) -> None:
            monkeypatch.undo()
            handler.send(429, b"{}", retry_after=formatdate(time.time() + 2, usegmt=True))

        monkeypatch.setattr(server.RequestHandlerClass, "send", send)
        begun = time.monotonic()
        assert ask(proposer, "y")
        assert time.monotonic() - begun > 0.9


class Silent(Words):
    """Its tokens are no text."""

    def go_on(self, ids: Any, body: Any, index: int) -> Continued:
        return Continued(text="", count=body["max_tokens"])


@pytest.mark.parametrize("completions", [True, False], ids=["completions", "chat"])
def test_no_text_at_the_limit_is_no_answer(completions: bool) -> None:
    with serve(Silent(), completions=completions) as server:
        proposer = OpenAIProposer("m", base_url=server.url, max_retries=0)
        with pytest.raises(ServerError, match="gave no text for 8 tokens"):
            ask(proposer, "x", sampling=SamplingParams(max_tokens=8))
        [short] = ask(proposer, "x", sampling=SamplingParams(max_tokens=3))
        assert (short.text, short.finish_reason) == ("", "length"), "part of a character"


@pytest.mark.parametrize(
    ("url", "hint"), [("{}", True), ("{}/", True), ("{}/v1", False), ("{}/api", False)]
)
def test_a_url_without_v1_gets_a_hint(url: str, hint: bool) -> None:
    with serving("not there") as server:
        server.on = True
        base = url.format(server.url.removesuffix("/v1"))
        with pytest.raises(ServerError, match="check base_url") as caught:
            ask(OpenAIProposer("m", base_url=base, max_retries=0), "x")
        assert (f"theirs at {server.url}" in str(caught.value)) == hint
