"""Answers over HTTP are those of the same models in this process, streamed or not."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from tests.helpers.serving import chunks, serving
from w2s_chains import W2SLLM, BestOfN, ChatW2S, ChunkBeamSearch, EmulatedFineTuning, Sampling
from w2s_chains.serving.catalog import Served
from w2s_chains.tracing import Trace

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["days"],
        },
    },
}


def ask(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    reply = client.post(f"/v1/{path}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def talk(client: httpx.Client, **body: Any) -> dict[str, Any]:
    return ask(client, "chat/completions", **{"model": "chat", "messages": HI, **body})


def complete(client: httpx.Client, **body: Any) -> dict[str, Any]:
    return ask(client, "completions", **{"model": "raw", "prompt": "hi", **body})


def content(reply: dict[str, Any]) -> str:
    return reply["choices"][0]["message"]["content"]


def text(reply: dict[str, Any]) -> str:
    return reply["choices"][0]["text"]


def stream(client: httpx.Client, path: str, **body: Any) -> list[dict[str, Any]]:
    with client.stream("POST", f"/v1/{path}", json={**body, "stream": True}) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        return chunks(reply.iter_lines())


def told(events: list[dict[str, Any]], index: int = 0) -> str:
    """The content of one answer of a stream."""
    found = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content", "")
        for choice in found
    )


CALLS: list[dict[str, Any]] = [
    {},
    {"seed": 5},
    {"seed": 5, "temperature": 0.3, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    {"temperature": 0, "max_tokens": 7, "repetition_penalty": 1.2},
    {"seed": 2, "stop": ["a", "e"]},
    {"seed": 2, "stop": "o", "n": 2},
]


@pytest.mark.parametrize("call", CALLS)
def test_a_completion_is_that_of_the_model(
    client: httpx.Client, llm: W2SLLM, call: dict[str, Any]
) -> None:
    reply = complete(client, **call)
    own = llm.generate(["hi"], **call).generations[0]
    assert [choice["text"] for choice in reply["choices"]] == [one.text for one in own]
    infos = [one.generation_info or {} for one in own]
    assert [choice["w2s"]["score"] for choice in reply["choices"]] == pytest.approx(
        [info["score"] for info in infos], rel=1e-4
    )
    reasons = {"eos": "stop", "stop": "stop", "length": "length"}
    assert [choice["finish_reason"] for choice in reply["choices"]] == [
        reasons[info["finish_reason"]] for info in infos
    ]
    events = stream(client, "completions", model="raw", prompt="hi", **call)
    for index, one in enumerate(own):
        assert told(events, index) == one.text, "streamed = whole"
    assert reply["object"] == events[0]["object"] == "text_completion"


@pytest.mark.parametrize("call", CALLS)
def test_a_chat_answer_is_that_of_the_model(
    client: httpx.Client, chat: ChatW2S, call: dict[str, Any]
) -> None:
    call = {("max_completion_tokens" if k == "max_tokens" else k): v for k, v in call.items()}
    reply = talk(client, **call)
    own = {("max_tokens" if k == "max_completion_tokens" else k): v for k, v in call.items()}
    answers = chat.generate([[HumanMessage("hi")]], **own).generations[0]
    assert [c["message"]["content"] for c in reply["choices"]] == [one.text for one in answers]
    events = stream(client, "chat/completions", model="chat", messages=HI, **call)
    for index, one in enumerate(answers):
        assert told(events, index) == one.text, "streamed = whole"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1


def test_the_same_request_has_the_same_answer_and_another_seed_another(
    client: httpx.Client, llm: W2SLLM
) -> None:
    first, again, other = (text(complete(client, seed=seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert text(complete(client)) == llm.invoke("hi"), "without a seed, the config's"


def test_a_list_of_prompts_is_answered_in_order(client: httpx.Client, llm: W2SLLM) -> None:
    reply = complete(client, prompt=["hi", "there"], n=2)
    own = llm.generate(["hi", "there"], n=2).generations
    flat = [one.text for group in own for one in group]
    assert [choice["text"] for choice in reply["choices"]] == flat
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    events = stream(client, "completions", model="raw", prompt=["hi", "there"], n=2)
    assert [told(events, index) for index in range(4)] == flat


def test_usage_counts_tokens_as_openai_does(client: httpx.Client, llm: W2SLLM) -> None:
    reply = complete(client, n=2)
    infos = [one.generation_info or {} for one in llm.generate(["hi"], n=2).generations[0]]
    usage = reply["usage"]
    written = sum(info["completion_tokens"] for info in infos)
    assert usage["prompt_tokens"] == infos[0]["prompt_tokens"] == llm.get_num_tokens("hi")
    assert usage["completion_tokens"] == written
    assert usage["total_tokens"] == usage["prompt_tokens"] + written
    proposed = max(info["proposed_tokens"] for info in infos)
    assert usage["completion_tokens_details"] == {
        "accepted_prediction_tokens": written,
        "rejected_prediction_tokens": proposed - written,
    }
    assert proposed > written, "control"
    call: dict[str, Any] = {"model": "raw", "prompt": "hi", "n": 2}
    *events, last = stream(client, "completions", **call, stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]) == ([], usage)
    assert all(event["usage"] is None for event in events)
    assert all("usage" not in event for event in stream(client, "completions", **call))


def test_every_answer_tells_score_and_cost(client: httpx.Client) -> None:
    found = talk(client)["choices"][0]["w2s"]
    assert found["score"] > 0
    assert found["kl"] > 0
    assert found["read_tokens"] > found["completion_tokens"]
    ends = [
        choice
        for event in stream(client, "chat/completions", model="chat", messages=HI)
        for choice in event["choices"]
        if "w2s" in choice
    ]
    assert [end["w2s"]["read_tokens"] for end in ends] == [found["read_tokens"]]
    assert ends[0]["finish_reason"] is not None


def test_a_trace_is_that_of_the_model(client: httpx.Client, llm: W2SLLM) -> None:
    own = llm.trace("hi", seed=3)
    call: dict[str, Any] = {"seed": 3, "w2s": {"trace": True}}
    found = complete(client, **call)["choices"][0]["w2s"]["trace"]
    assert same(Trace.from_json(json.dumps(found)), own)
    assert not same(own, llm.trace("hi", seed=4)), "control"
    events = stream(client, "completions", model="raw", prompt="hi", **call)
    told_of = [choice["w2s"] for event in events for choice in event["choices"] if "w2s" in choice]
    assert same(Trace.from_json(json.dumps(told_of[-1]["trace"])), own)
    grown = [node for one in told_of if "grown" in one for node in one["grown"]["candidates"]]
    assert [(node["id"], node["parent"], node["text"]) for node in grown] == [
        (node.id, node.parent, node.text) for node in own.nodes[1:]
    ]
    scored = {}
    for one in told_of:
        if "scored" in one:
            scored |= dict(zip(one["scored"]["ids"], one["scored"]["scores"], strict=True))
    assert set(scored) == {node.id for node in own.nodes if node.score is not None}
    assert told(events) == llm.invoke("hi", seed=3)
    assert "trace" not in complete(client)["choices"][0]["w2s"]


def same(one: Trace, other: Trace) -> bool:
    """Whether two traces show the same tree."""
    return [(n.parent, n.text, n.state) for n in one.nodes] == [
        (n.parent, n.text, n.state) for n in other.nodes
    ]


# Searches.


@pytest.mark.parametrize(
    ("asked", "strategy"),
    [
        ({"model": "raw@wide"}, ChunkBeamSearch(width=3, successors=2, chunk_tokens=3)),
        ({"w2s": {"strategy": "wide"}}, ChunkBeamSearch(width=3, successors=2, chunk_tokens=3)),
        ({"model": "raw@best_of_n"}, BestOfN()),
        ({"w2s": {"strategy": "sampling"}}, Sampling()),
        ({"w2s": {"strategy": {"type": "best_of_n", "n": 3}}}, BestOfN(n=3)),
        ({"w2s": {"strategy": "sampling", "steering": 0.0}}, None),
        (
            {"w2s": {"steering": 0.5}},
            ChunkBeamSearch(width=2, successors=2, chunk_tokens=4, steering=0.5),
        ),
        (
            {"w2s": {"strategy": {"type": "emulated_fine_tuning", "beta": 0.5}}},
            EmulatedFineTuning(beta=0.5),
        ),
    ],
    ids=["name", "field", "type", "sampling", "mapping", "unsteerable", "steering", "eft"],
)
def test_a_request_chooses_its_search(
    client: httpx.Client, llm: W2SLLM, asked: dict[str, Any], strategy: Any
) -> None:
    reply = client.post("/v1/completions", json={"model": "raw", "prompt": "hi", **asked})
    if strategy is None:
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "w2s"
        return
    assert text(reply.json()) == llm.invoke("hi", strategy=strategy)
    assert text(reply.json()) != llm.invoke("hi"), "control"
    assert reply.json()["model"] == asked.get("model", "raw")


def test_models_are_listed_with_their_searches(client: httpx.Client) -> None:
    listed = [one["id"] for one in client.get("/v1/models").json()["data"]]
    assert listed[0] == "raw"
    assert {"raw", "raw@wide", "raw@best_of_n", "chat", "chat@wide"} <= set(listed)
    assert client.get("/v1/models/raw@wide").json()["object"] == "model"
    for name in ("raw@narrow", "nobody"):
        assert client.get(f"/v1/models/{name}").status_code == 404
        reply = client.post("/v1/completions", json={"model": name, "prompt": "hi"})
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "model_not_found"


def test_searches_that_lack_a_part_are_not_listed(llm: W2SLLM) -> None:
    plain = W2SLLM(proposer=llm.proposer, strategy=Sampling())
    assert Served(name="plain", model=plain).offered == ["sampling"]
    assert "best_of_n" in Served(name="raw", model=llm).offered, "control"


# Conversations.


def test_a_model_answers_what_it_reads(client: httpx.Client) -> None:
    wrong = client.post("/v1/chat/completions", json={"model": "raw", "messages": HI})
    assert wrong.status_code == 400
    assert "/v1/completions" in wrong.json()["error"]["message"]
    wrong = client.post("/v1/completions", json={"model": "chat", "prompt": "hi"})
    assert wrong.status_code == 400
    assert "/v1/chat/completions" in wrong.json()["error"]["message"]


def test_an_llm_with_a_chat_template_answers_chats(llm: W2SLLM, chat: ChatW2S) -> None:
    both = W2SLLM(proposer=chat.proposer, scorer=llm.scorer, max_tokens=9, seed=0)
    with serving(Served(name="chat", model=both), Served(name="raw", model=both)) as client:
        own = chat.invoke("hi", max_tokens=9, strategy=both.strategy)
        assert content(talk(client)) == own.content
        assert text(complete(client)) == both.invoke("hi")


def test_a_conversation_is_read_as_langchain_gives_it(client: httpx.Client, chat: ChatW2S) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "content": "7", "tool_call_id": "1"},
        {"role": "user", "content": "more", "name": "Ann"},
    ]
    own = chat.invoke(
        [
            SystemMessage("Be kind."),
            HumanMessage("hi"),
            AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "1"}]),
            ToolMessage("7", tool_call_id="1"),
            HumanMessage("more", name="Ann"),
        ]
    )
    assert content(talk(client, messages=messages)) == own.content
    assert content(talk(client, messages=messages[1:])) != own.content, "control"


def test_an_answer_may_be_said_again(client: httpx.Client) -> None:
    """Clients send messages back as they got them."""
    for call in ({}, {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 90}):
        message = talk(client, **call)["choices"][0]["message"]
        rest = [
            {"role": "tool", "content": "dry", "tool_call_id": one["id"]}
            for one in message.get("tool_calls", ())
        ]
        assert content(talk(client, messages=[*HI, message, *rest, *HI])) is not None


def test_tools_are_called(client: httpx.Client) -> None:
    call: dict[str, Any] = {"tools": [WEATHER], "max_tokens": 90}
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        answer = talk(client, **call, tool_choice=choice)["choices"][0]
        assert answer["finish_reason"] == "tool_calls"
        assert answer["message"]["content"] is None
        [made] = answer["message"]["tool_calls"]
        assert made["function"]["name"] == "weather"
        assert made["function"]["arguments"].startswith('{"days": ')
        events = stream(
            client, "chat/completions", model="chat", messages=HI, **call, tool_choice=choice
        )
        [streamed] = [
            one
            for event in events
            for choice in event["choices"]
            for one in choice["delta"].get("tool_calls", ())
        ]
        assert streamed["function"] == made["function"]
        assert streamed["index"] == 0
    free = talk(client, **call, tool_choice="none")["choices"][0]["message"]
    assert "tool_calls" not in free


def test_an_answer_has_the_form_that_is_asked_for(client: httpx.Client) -> None:
    schema = WEATHER["function"]["parameters"]
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
    answer = json.loads(content(talk(client, response_format=form, max_tokens=40)))
    assert list(answer) == ["days"]
    assert 1 <= answer["days"] <= 9
    form = {"type": "json_object"}
    assert isinstance(json.loads(content(talk(client, response_format=form))), dict)
    free = content(talk(client, response_format={"type": "text"}))
    assert free == content(talk(client))
    with pytest.raises(json.JSONDecodeError):
        json.loads(free)  # control
