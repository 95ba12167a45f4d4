"""Agents of LangChain with a ChatW2S."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, wrap_model_call
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessageChunk, message_chunk_to_message
from langgraph.errors import GraphRecursionError

from tests.helpers.tools import TALK, Weather, add, called, shout
from w2s_chains import ChatW2S

ASKED: Any = {"messages": TALK}


def forced(*choices: Any) -> Any:
    """The tool choice of the first calls of a model; "none" from then on."""
    left = list(choices)

    @wrap_model_call
    def force(request: ModelRequest, handler: Any) -> Any:
        return handler(request.override(tool_choice=left.pop(0) if left else "none"))

    return force


def test_an_agent_loop_ends(chat: ChatW2S) -> None:
    agent = create_agent(chat, [add, shout], middleware=[forced("add", "shout")])
    messages = agent.invoke(ASKED)["messages"]
    kinds = [type(message).__name__ for message in messages[2:]]
    assert kinds == ["AIMessage", "ToolMessage", "AIMessage", "ToolMessage", "AIMessage"]
    [(name, args)] = called(messages[2])
    assert name == "add"
    assert messages[3].content == str(args["a"] + args["b"])
    [(name, args)] = called(messages[4])
    assert messages[5].content == args["text"].upper()
    assert messages[6].content
    # Each result was shown to the model.
    read = chat.proposer.tokenizer
    last = read.hf_tokenizer.decode(read.prompt_ids(chat._prompt(messages[:-1])))
    assert f"<tool_response>\n{messages[3].content}\n</tool_response>" in last


async def test_an_agent_as_a_stream(chat: ChatW2S) -> None:
    agent = create_agent(chat, [add], middleware=[_aforced("add")])
    whole: Any = None
    async for chunk, _ in agent.astream(ASKED, stream_mode="messages"):
        if isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
            whole = chunk
    assert called(message_chunk_to_message(whole))[0][0] == "add"


def _aforced(choice: str) -> Any:
    left = [choice]

    @wrap_model_call
    async def force(request: ModelRequest, handler: Any) -> Any:
        return await handler(request.override(tool_choice=left.pop() if left else "none"))

    return force


@pytest.mark.parametrize("tools", [[], [add]], ids=["no tools", "tools"])
@pytest.mark.parametrize("wanted", [Weather, ProviderStrategy(Weather), ToolStrategy(Weather)])
def test_an_agent_with_a_response_format(chat: ChatW2S, tools: Any, wanted: Any) -> None:
    agent = create_agent(chat, tools, response_format=wanted)
    for seed in range(2):
        chat.seed = seed
        try:
            answer = agent.invoke(ASKED, {"recursion_limit": 8})
        except GraphRecursionError:  # a random model called its tool again and again
            assert isinstance(wanted, ToolStrategy)
            assert tools
            continue
        assert isinstance(answer["structured_response"], Weather)
