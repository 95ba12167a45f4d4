"""One call with tools, or many; cached, configured, asynchronous."""

from __future__ import annotations

import copy
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import message_chunk_to_message

from tests.helpers.llms import forwards
from tests.helpers.tools import NOW, PAIR, TALK, Weather, add, called, schema_of
from w2s_chains import ChatW2S, Sampling
from w2s_chains.langchain.tools import tool_dicts


async def test_all_ways_to_call_agree(chat: ChatW2S) -> None:
    for bound in (
        chat.bind_tools([add, Weather], tool_choice="any"),
        chat.bind(response_format={"type": "json_object", "schema": schema_of(Weather)}),
    ):
        message: Any = bound.invoke(TALK)
        expected = (message.content, called(message))
        batch = bound.batch([TALK, "else", TALK])
        chunks = [chunk async for chunk in bound.astream(TALK)]
        whole: Any = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        for other in (
            batch[0], batch[2], (await bound.abatch([TALK, "x"]))[0], await bound.ainvoke(TALK),
            message_chunk_to_message(whole),
        ):  # fmt: skip
            assert (other.content, called(other)) == expected
        assert (batch[1].content, called(batch[1])) != expected, "control"
        alone: Any = bound.invoke("else")
        assert (batch[1].content, called(batch[1])) == (alone.content, called(alone))


def test_tools_are_part_of_the_cache_key(chat: ChatW2S) -> None:
    cache = InMemoryCache()
    chat = chat.model_copy(update={"strategy": Sampling(), "max_tokens": 90})
    cached = chat.model_copy(update={"cache": cache})
    other = copy.deepcopy(tool_dicts([add])[0])
    other["function"]["description"] = "Adds."
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": PAIR}}
    changes: list[dict[str, Any]] = [
        {}, {"tools": [add]}, {"tools": [other]}, {"tools": [add, NOW]}, {"tools": [NOW, add]},
        {"tools": [add], "tool_choice": "any"}, {"tools": [add], "tool_choice": "none"},
        {"tools": [add], "tool_choice": "any", "parallel_tool_calls": True},
        {"response_format": form}, {"response_format": {"type": "json_object", "schema": PAIR}},
        {"tools": [add], "response_format": form},
    ]  # fmt: skip
    for count, changed in enumerate(changes, 1):
        message, fresh = cached.invoke(TALK, **changed), chat.invoke(TALK, **changed)
        assert (message.content, called(message)) == (fresh.content, called(fresh))
        assert len(cache._cache) == count, changed
    before = forwards(chat)
    for same in (
        cached.bind_tools([add]), cached.bind_tools([add, add]),
        cached.bind_tools(tool_dicts([add])),
        cached.bind_tools([add], tool_choice="required"), cached.with_structured_output(PAIR),
    ):  # fmt: skip
        same.invoke(TALK)
    assert forwards(chat) == before, "all of them are hits"
    cached.bind_tools([add], tool_choice="add").invoke(TALK)
    assert forwards(chat) > before, "control"


def test_bind_tools_among_other_wrappers(chat: ChatW2S) -> None:
    expected = called(chat.bind_tools([add], tool_choice="any", temperature=0.1).invoke(TALK))
    tags: list[list[str]] = []

    class Tags(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
            tags.append(kwargs["tags"])

    after = chat.bind_tools([add], tool_choice="any").with_config(tags=["t"]).bind(temperature=0.1)
    before: Any = chat.with_config(tags=["t"])
    before = before.bind_tools([add], tool_choice="any", temperature=0.1)
    for bound in (after, before):
        assert called(bound.invoke(TALK, {"callbacks": [Tags()]})) == expected
    assert tags[0] == ["t"]
    fallback = chat.bind_tools([add], tool_choice="any", temperature=0.1).with_fallbacks([chat])
    assert called(fallback.invoke(TALK)) == expected
    bound: Any = chat.bind_tools([add], tool_choice="any")
    again = chat.bind_tools([NOW]).bind(**bound.kwargs)
    assert called(again.invoke(TALK, temperature=0.1)) == expected
