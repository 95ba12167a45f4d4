"""Whatever is sent, the answer is an OpenAI error object, and the server lives on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.helpers.serving import serving
from w2s_chains import W2SLLM, ChatW2S
from w2s_chains.serving.catalog import Served

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
RAW: dict[str, Any] = {"model": "raw", "prompt": "hi"}
MOST = 100_000


def raw(**fields: Any) -> dict[str, Any]:
    return {"path": "completions", "json": {**RAW, **fields}}


def talk(**fields: Any) -> dict[str, Any]:
    return {"path": "chat/completions", "json": {**CHAT, **fields}}


def said(*messages: Any) -> dict[str, Any]:
    return talk(messages=list(messages))


def sent(content: bytes, kind: str = "application/json", **more: Any) -> dict[str, Any]:
    return {"path": "completions", "content": content, "headers": {"content-type": kind}, **more}


DEEP = b'{"model": "raw", "prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
BAD: dict[str, tuple[dict[str, Any], int, str | None]] = {
    # What is no request.
    "empty": (sent(b""), 400, None),
    "broken JSON": (sent(b'{"model": "raw", '), 400, None),
    "a list": (sent(b"[1, 2]"), 400, None),
    "bad UTF-8": (sent(b'{"model": "raw", "prompt": "\xff\xfe"}'), 400, None),
    "UTF-16": (sent('{"model": "raw"}'.encode("utf-16")), 400, None),
    "half a surrogate pair": (sent(b'{"model": "raw", "prompt": "\\ud800"}'), 400, None),
    "NaN": (sent(b'{"model": "raw", "prompt": "x", "temperature": NaN}'), 400, None),
    "infinite": (
        sent(b'{"model": "raw", "prompt": "x", "temperature": 1e999}'), 400, "temperature",
    ),
    "a number of 5,000 digits": (
        sent(b'{"model": "raw", "prompt": "x", "seed": ' + b"9" * 5000 + b"}"), 400, None,
    ),
    "deep": (sent(DEEP), 400, None),
    "huge": (sent(b'{"prompt": "' + b"x" * (MOST + 1) + b'"}'), 413, None),
    "far too huge": (sent(b"x" * MOST * 20), 413, None),
    "a form": (sent(b"model=raw", "application/x-www-form-urlencoded"), 415, None),
    "no content type": ({"path": "completions", "content": b"{}"}, 415, None),
    "unknown path": ({"path": "embeddings", "json": {}}, 404, None),
    "wrong method": ({"path": "completions", "method": "GET"}, 405, None),
    "wrong key": ({**raw(), "headers": {"authorization": "Bearer wrong"}}, 401, None),
    "no key": ({**raw(), "headers": {"authorization": ""}}, 401, None),
    "a key that is no text": ({**raw(), "headers": {"authorization": b"Bearer \xff"}}, 401, None),
    # Wrong fields.
    "unknown field": (raw(temprature=1), 400, "temprature"),
    "field of another route": (raw(messages=[]), 400, "messages"),
    "no model": ({"path": "completions", "json": {"prompt": "x"}}, 400, "model"),
    "unknown model": (raw(model="gpt-9"), 404, "model"),
    "unknown search": (raw(model="raw@magic"), 404, "model"),
    "model of another type": (raw(model=7), 400, "model"),
    "no prompt": ({"path": "completions", "json": {"model": "raw"}}, 400, "prompt"),
    "token ids": (raw(prompt=[1, 2]), 400, "prompt"),
    "lists of token ids": (raw(prompt=[[1], [2]]), 400, "prompt"),
    "no prompts": (raw(prompt=[]), 400, "prompt"),
    "a prompt that is too long": (raw(prompt="x" * 9000), 400, "prompt"),
    "temperature as text": (raw(temperature="0"), 400, "temperature"),
    "temperature of a flag": (raw(temperature=True), 400, "temperature"),
    "negative temperature": (raw(temperature=-1), 400, "temperature"),
    "top_p above 1": (raw(top_p=1.5), 400, "top_p"),
    "negative tokens": (raw(max_tokens=-1), 400, "max_tokens"),
    "too many tokens": (raw(max_tokens=10**9), 400, "max_tokens"),
    "a seed that is no integer": (raw(seed=1.5), 400, "seed"),
    "a seed of 200 bits": (raw(seed=-(2**200)), 400, "seed"),
    "n of 1000": (raw(n=1000), 400, "n"),
    "n of 0": (raw(n=0), 400, "n"),
    "100 prompts at once": (raw(prompt=["x"] * 100), 400, "n"),
    "a stop string that is no text": (raw(stop=[1]), 400, "stop"),
    "an empty stop string": (raw(stop=["a", ""]), 400, "stop.1"),
    "1000 stop strings": (raw(stop=["a"] * 1000), 400, "stop"),
    "stream as text": (raw(stream="yes"), 400, "stream"),
    "stream options without a stream": (
        raw(stream_options={"include_usage": True}), 400, "stream_options",
    ),
    "unknown stream option": (
        raw(stream=True, stream_options={"x": 1}), 400, "stream_options.x",
    ),
    "bad search in a stream": (raw(stream=True, w2s={"strategy": "magic"}), 400, "w2s"),
    "search of a misspelt field": (
        raw(w2s={"strategy": {"type": "best_of_n", "m": 2}}), 400, "w2s",
    ),
    "two searches": (raw(model="raw@best_of_n", w2s={"strategy": "sampling"}), 400, "w2s"),
    "a search that is too wide": (
        raw(w2s={"strategy": {"type": "best_of_n", "n": 60_000}}), 400, "n",
    ),
    "unknown option of ours": (raw(w2s={"x": 1}), 400, "w2s.x"),
    # Messages, tools and forms.
    "no messages": (said(), 400, "messages"),
    "messages of text": (talk(messages="hi"), 400, "messages"),
    "an unknown role": (said({"role": "pirate", "content": "x"}), 400, "messages.0.role"),
    "no content": (said({"role": "user"}), 400, "messages.0"),
    "an image": (
        said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        400, "messages.0.content",
    ),
    "a tool's answer to nothing": (said({"role": "tool", "content": "x"}), 400, "messages.0"),
    "arguments that are no JSON": (
        said(
            {
                "role": "assistant",
                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}],
            }
        ),
        400, "messages.0.tool_calls.0.function",
    ),
    "an unknown field of a message": (
        said({"role": "user", "content": "x", "mood": "bad"}), 400, "messages.0.mood",
    ),
    "a tool without a name": (talk(tools=[{"type": "function"}]), 400, "tools"),
    "a tool that a provider runs": (talk(tools=[{"type": "web_search"}]), 400, "tools"),
    "an unknown tool is chosen": (talk(tools=[TOOL], tool_choice="g"), 400, "tool_choice"),
    "a tool is chosen of none": (talk(tool_choice="required"), 400, "tool_choice"),
    "an unknown form": (talk(response_format={"type": "xml"}), 400, "response_format"),
    "a form without a schema": (
        talk(response_format={"type": "json_schema"}), 400, "response_format",
    ),
    "a schema that nothing meets": (
        talk(response_format={
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}},
        }),
        400, None,
    ),
    "two limits": (
        talk(max_tokens=1, max_completion_tokens=2), 400, "max_completion_tokens",
    ),
    # What this server lacks.
    **{
        f"{name} of completions": (raw(**{name: value}), 400, name)
        for name, value in {
            "logprobs": 0, "echo": True, "suffix": "x", "best_of": 4,
            "logit_bias": {"5": 1}, "frequency_penalty": 0.5, "presence_penalty": -1,
        }.items()
    },
    **{
        f"{name} of chats": (talk(**{name: value}), 400, name)
        for name, value in {
            "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "store": True,
            "frequency_penalty": 0.5, "presence_penalty": 1, "modalities": ["text", "audio"],
            "audio": {"voice": "x", "format": "wav"}, "functions": [], "function_call": "auto",
            "prediction": {"type": "content", "content": "x"}, "reasoning_effort": "low",
            "web_search_options": {}, "service_tier": "flex", "verbosity": "low",
        }.items()
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def client(llm: W2SLLM, chat: ChatW2S) -> Any:
    """A client of a server that wants a key and takes small bodies."""
    models = Served(name="raw", model=llm), Served(name="chat", model=chat)
    with serving(*models, keys=["sesame", "open"], body_bytes=MOST) as client:
        client.headers["authorization"] = "Bearer open"
        yield client


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_a_good_one_answered(client: httpx.Client, name: str) -> None:
    call, status, param = BAD[name]
    method, path = call.get("method", "POST"), call["path"]
    others = {key: call[key] for key in ("json", "content", "headers") if key in call}
    reply = client.request(method, f"/v1/{path}", **others)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["param"] == param, error
    assert reply.headers["x-request-id"]
    good = client.post(
        "/v1/completions", json={**RAW, "max_tokens": 1, "w2s": {"strategy": "sampling"}}
    )
    assert good.status_code == 200


def test_there_are_enough_of_them() -> None:
    assert len(BAD) >= 40


@pytest.mark.parametrize(
    "fields",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "logprobs": None},
        {"user": "u", "metadata": {"a": "b"}, "service_tier": "auto", "seed": -3, "n": None},
        {"echo": False, "suffix": None, "best_of": 1, "stop": None, "w2s": {}},
    ],
)
def test_what_means_off_is_taken(client: httpx.Client, fields: dict[str, Any]) -> None:
    fields = {"max_tokens": 1, "w2s": {"strategy": "sampling"}, **fields}
    assert client.post("/v1/completions", json={**RAW, **fields}).status_code == 200


def test_what_means_off_is_taken_of_chats(client: httpx.Client) -> None:
    fields: dict[str, Any] = {
        "store": False, "logprobs": False, "top_logprobs": None, "modalities": ["text"],
        "audio": None, "tools": [], "parallel_tool_calls": True, "stream": None,
        "response_format": None, "prompt_cache_key": "k", "safety_identifier": "s",
        "max_completion_tokens": 1, "max_tokens": 1,
    }  # fmt: skip
    assert client.post("/v1/chat/completions", json={**CHAT, **fields}).status_code == 200


def test_an_inner_error_tells_nothing_of_the_inside(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a secret path")

    with monkeypatch.context() as patched:
        patched.setattr(W2SLLM, "jobs", fails)
        reply = client.post("/v1/completions", json=RAW)
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert reply.json()["error"]["type"] == "server_error"
    assert reply.headers["x-should-retry"] == "false"
    assert client.post("/v1/completions", json=RAW).status_code == 200


def test_a_failure_in_a_search_ends_a_stream_with_an_error(
    client: httpx.Client, llm: W2SLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("a secret path")

    with monkeypatch.context() as patched:
        patched.setattr(type(llm.scorer), "score", fails)
        whole = client.post("/v1/completions", json=RAW)
        streamed = client.post("/v1/completions", json={**RAW, "stream": True})
    assert whole.status_code == 500
    assert streamed.status_code == 200, "it has begun"
    last = [line for line in streamed.text.splitlines() if line][-1]
    assert json.loads(last.removeprefix("data: ")) == whole.json()
    assert "secret" not in whole.text + streamed.text
    assert "[DONE]" not in streamed.text
    assert "[DONE]" in client.post("/v1/completions", json={**RAW, "stream": True}).text
