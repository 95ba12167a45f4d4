"""The clients that people have: openai's, LangChain's and curl, on the embedded model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from tests.helpers.serving import chunks, embedded_chat, serving
from w2s_chains import W2SLLM, ChatW2S
from w2s_chains.serving.catalog import Served

KEY = "sesame"
QUESTION = "How was the film? One sentence."
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
TOKENS = 12
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


class Verdict(BaseModel):
    """A verdict on a film."""

    good: bool
    stars: int


@pytest.fixture(scope="module")
def chat() -> ChatW2S:
    return embedded_chat().model_copy(update={"max_tokens": TOKENS})


@pytest.fixture(scope="module")
def url(chat: ChatW2S) -> Iterator[str]:
    raw = W2SLLM(proposer=chat.proposer, guides=chat.guides, max_tokens=TOKENS, seed=0)
    with serving(Served(name="film", model=chat), Served(name="raw", model=raw), keys=[KEY]) as c:
        yield str(c.base_url.join("/v1"))


@pytest.fixture(scope="module")
def own(chat: ChatW2S) -> str:
    """What the model answers in this process."""
    return str(chat.invoke(QUESTION).content)


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)


# openai.


def test_openai_chats(client: openai.OpenAI, own: str) -> None:
    whole = client.chat.completions.create(model="film", messages=ASKED)
    assert whole.choices[0].message.content == own
    assert (whole.choices[0].model_extra or {})["w2s"]["read_tokens"] > 0
    assert whole.usage is not None
    details = whole.usage.completion_tokens_details
    assert details is not None
    assert (details.rejected_prediction_tokens or 0) > 0
    with client.chat.completions.create(
        model="film", messages=ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        events = list(stream)
    said = [choice.delta.content or "" for event in events for choice in event.choices]
    assert "".join(said) == own
    assert events[-1].usage == whole.usage


def test_openai_completes(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="raw@sampling", prompt="The film", seed=3, n=2)
    with client.completions.create(
        model="raw", prompt="The film", seed=3, n=2, stream=True,
        extra_body={"w2s": {"strategy": "sampling"}},
    ) as stream:  # fmt: skip
        said = ["", ""]
        for event in stream:
            said[event.choices[0].index] += event.choices[0].text
    assert [choice.text for choice in whole.choices] == said
    assert said[0] != said[1]


def test_openai_calls_tools(client: openai.OpenAI) -> None:
    asked: Any = {"model": "film@sampling", "messages": ASKED, "tools": [WEATHER]}
    asked |= {"tool_choice": "required", "max_completion_tokens": 40}
    whole = client.chat.completions.create(**asked)
    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        last = stream.get_final_completion().choices[0]
    assert last.finish_reason == "tool_calls"
    [streamed] = last.message.tool_calls or []
    assert streamed.function.arguments == call.function.arguments


def test_openai_parses_a_form(client: openai.OpenAI) -> None:
    found = client.chat.completions.parse(
        model="film@sampling", messages=ASKED, response_format=Verdict, max_completion_tokens=30
    )
    assert isinstance(found.choices[0].message.parsed, Verdict)


def test_openai_understands_refusals(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=ASKED)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="film", messages=ASKED, logprobs=True)
    assert bad.value.param == "logprobs"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="x", max_retries=0).models.list()
    assert client.models.list().data[0].id == "film"
    assert client.models.retrieve("film@sampling").id == "film@sampling"


# LangChain.


def test_langchain_chats(url: str, own: str) -> None:
    model: Any = ChatOpenAI(
        model="film", base_url=url, api_key=SecretStr(KEY), max_retries=0, stream_usage=True
    )
    assert model.invoke(QUESTION).content == own
    pieces = list(model.stream(QUESTION))
    assert "".join(piece.content for piece in pieces) == own
    [usage] = [piece.usage_metadata for piece in pieces if piece.usage_metadata]
    assert usage["output_tokens"] > 0
    called = model.bind_tools([WEATHER], tool_choice="any").invoke(QUESTION, max_tokens=40)
    assert called.tool_calls[0]["name"] == "weather"
    verdict = model.with_structured_output(Verdict).invoke(QUESTION, max_tokens=30)
    assert isinstance(verdict, Verdict)
    searched = ChatOpenAI(
        model="film",
        base_url=url,
        api_key=SecretStr(KEY),
        extra_body={"w2s": {"strategy": "sampling"}},
    )
    assert searched.invoke(QUESTION).content != own


def test_langchain_completes(url: str) -> None:
    model: Any = OpenAI(
        model="raw", base_url=url, api_key=SecretStr(KEY), temperature=0.7, max_tokens=TOKENS,
        seed=1, max_retries=0, frequency_penalty=0, top_p=1,
    )  # fmt: skip
    assert model.invoke("The film") == "".join(model.stream("The film")) != ""


# curl.


def test_curl_chats(url: str, own: str) -> None:
    def curl(**more: Any) -> str:
        body = json.dumps({"model": "film", "messages": ASKED, **more})
        command = ["curl", "-sN", f"{url}/chat/completions", "-d", body]
        for header in (f"Authorization: Bearer {KEY}", "Content-Type: application/json"):
            command += ["-H", header]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert json.loads(curl())["choices"][0]["message"]["content"] == own
    events = chunks(curl(stream=True).splitlines())
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == own
    assert json.loads(curl(n=1000))["error"]["param"] == "n"
