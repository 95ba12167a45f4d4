"""Structured output of ChatW2S: whatever the model would rather write, it parses."""

from __future__ import annotations

import json
from typing import Any, Literal

import jsonschema
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from tests.helpers.tools import (
    CHOICE,
    METHODS,
    NOW,
    PAIR,
    TALK,
    TWO,
    Dated,
    Tree,
    Weather,
    add,
    called,
    every_strategy,
    scripted,
    seen,
    streamed,
)
from w2s_chains import ChatW2S, SearchStrategy
from w2s_chains.core.prompts import CallFormat
from w2s_chains.errors import ConfigError, ConstraintError
from w2s_chains.langchain.tools import OrCalls, parser_of

# Structured output.


@every_strategy
@pytest.mark.parametrize("method", METHODS)
def test_structured_output_parses(chat: ChatW2S, strategy: SearchStrategy, method: Any) -> None:
    chat = chat.model_copy(update={"strategy": strategy})
    for seed in range(2):
        weather, tree = (
            chat.with_structured_output(schema, method=method, seed=seed).invoke(TALK)
            for schema in (Weather, Tree)
        )
        assert isinstance(weather, Weather)
        assert isinstance(tree, Tree)
        dated, pair, choice = (
            chat.with_structured_output(schema, method=method, seed=seed).invoke(TALK)
            for schema in (Dated, PAIR, CHOICE)
        )
        assert set(dated) == {"day", "month"}
        jsonschema.validate(pair, PAIR)
        jsonschema.validate(choice, CHOICE)
    with pytest.raises(ValueError, match=r"Expecting|Invalid"):  # control
        json.loads(str(chat.invoke(TALK).content))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", [Weather, Dated, PAIR], ids=["pydantic", "typed", "dict"])
def test_include_raw(chat: ChatW2S, method: Any, schema: Any) -> None:
    both = chat.with_structured_output(schema, method=method, include_raw=True).invoke(TALK)
    assert set(both) == {"raw", "parsed", "parsing_error"}
    assert both["parsed"] == chat.with_structured_output(schema, method=method).invoke(TALK)
    assert both["parsing_error"] is None
    assert bool(both["raw"].tool_calls) == (method == "function_calling")


def test_an_error_of_parsing_is_kept(chat: ChatW2S) -> None:
    class Picky(BaseModel):
        a: Literal[1]

        def model_post_init(self, context: Any) -> None:
            raise ValueError("never")

    both = chat.with_structured_output(Picky, include_raw=True).invoke(TALK)
    assert both["parsed"] is None
    assert both["raw"].content == '{"a": 1}'
    assert "never" in str(both["parsing_error"])
    with pytest.raises(Exception, match="never"):
        chat.with_structured_output(Picky).invoke(TALK)


def test_only_json_schema_shows_the_schema(chat: ChatW2S) -> None:
    bound: dict[str, Any] = {
        method: chat.with_structured_output(CHOICE, method=method) for method in METHODS
    }
    shown = {method: seen(chat, one.first) for method, one in bound.items()}
    assert "JSON schema" in shown["json_schema"]
    assert "anyOf" in shown["json_schema"]
    assert "anyOf" in shown["function_calling"]
    assert "# Tools" in shown["function_calling"]
    assert shown["json_mode"] == seen(chat, chat.bind())
    assert isinstance(chat.with_structured_output(None, method="json_mode").invoke(TALK), dict)


def test_schemas_in_response_format(chat: ChatW2S) -> None:
    nameless = {key: value for key, value in PAIR.items() if key != "title"}
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": nameless}}
    bound = chat.bind(response_format=form)
    message = bound.invoke(TALK)
    assert isinstance(message, AIMessage)
    jsonschema.validate(json.loads(str(message.content)), PAIR)
    assert streamed(bound).content == message.content
    assert chat.with_structured_output(nameless).invoke(TALK) == json.loads(str(message.content))
    assert chat.invoke(TALK, response_format={"type": "text"}).content == chat.invoke(TALK).content


def test_a_model_with_tools_of_its_own_gives_structured_output(chat: ChatW2S) -> None:
    """It would call its tools instead of answering."""
    fields: dict[str, Any] = {name: getattr(chat, name) for name in ChatW2S.model_fields}
    fields |= {"tools": [add], "tool_choice": "add"}
    own = ChatW2S(**fields)
    assert called(own.invoke(TALK))[0][0] == "add"
    for method in METHODS:
        assert isinstance(own.with_structured_output(Weather, method=method).invoke(TALK), Weather)


# Answers with a response_format where tools may be called, too.


def json_or_call(tools: Any, **options: Any) -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "pair", "schema": PAIR}}
    return {"tools": tools, "response_format": form, **options}


def test_tools_and_a_response_format(chat: ChatW2S) -> None:
    kinds: set[bool] = set()
    for seed in range(8):
        options = json_or_call([add], seed=seed, temperature=4.0)
        message = chat.bind_tools(**options).invoke(TALK)
        kinds.add(bool(message.tool_calls))
        if message.tool_calls:
            assert (message.content, called(message)[0][0]) == ("", "add")
        else:
            jsonschema.validate(json.loads(str(message.content)), PAIR)
    assert kinds == {True, False}
    bound = chat.bind_tools(**json_or_call([add], tool_choice="any"))
    message = bound.invoke(TALK)
    assert called(message)[0][0] == "add"
    assert message.content == ""


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_the_mark_of_a_call_in_json_is_text(size: int) -> None:
    free = {"type": "object", "properties": {"a": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": free}}
    text = json.dumps({"a": f"Say {TWO} or <tool_call>"})
    for answer, content, expected in (
        (text, text, []), (TWO, "", [("add", {"a": 1, "b": 2}), ("now", {})]),
    ):  # fmt: skip
        bound = scripted(answer, size=size).bind_tools(
            [add, NOW], response_format=form, parallel_tool_calls=True
        )
        for message in (bound.invoke(TALK), streamed(bound)):
            assert (message.content, called(message)) == (content, expected)


def test_a_form_without_a_mark_is_for_forced_calls_only() -> None:
    bare = CallFormat(begin="", end="")
    text = '{"name": "now", "arguments": {}}'
    bound = scripted(text, form=bare).bind_tools([NOW], tool_choice="any")
    assert called(bound.invoke(TALK)) == called(streamed(bound)) == [("now", {})]
    for options in ({}, json_or_call([])):
        with pytest.raises(ConstraintError, match="cannot be told from text"):
            scripted(text, form=bare).bind_tools(**{**options, "tools": [NOW]})


# Structured output, or a call.


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


def test_a_call_is_no_parsing_error() -> None:
    either = scripted(CALL).with_structured_output(Weather, tools=[add], include_raw=True)
    got = either.invoke(TALK)
    assert called(got["raw"]) == [("add", {"a": 1, "b": 2})]
    assert (got["parsed"], got["parsing_error"]) == (None, None)
    assert scripted(CALL).with_structured_output(Weather, tools=[add]).invoke(TALK) is None
    parts = [*scripted(CALL).with_structured_output(PAIR, tools=[add]).stream(TALK)]
    assert [part for part in parts if part] == []


async def test_a_call_is_no_parsing_error_either_way() -> None:
    either = scripted(CALL).with_structured_output(Weather, tools=[add])
    assert await either.ainvoke(TALK) is None
    assert [part async for part in either.astream(TALK) if part] == []
    raw = scripted(CALL).with_structured_output(Weather, tools=[add], include_raw=True)
    got = await raw.ainvoke(TALK)
    assert (len(got["raw"].tool_calls), got["parsing_error"]) == (1, None)


async def test_an_answer_beside_tools_is_parsed() -> None:
    """Control: what is no call is parsed, and what is neither is an error."""
    text = json.dumps({"city": {"name": "Rome", "zip": 1}, "unit": "C"})
    either = scripted(text).with_structured_output(Weather, tools=[add])
    assert isinstance(either.invoke(TALK), Weather)
    assert isinstance(await either.ainvoke(TALK), Weather)
    assert isinstance([*either.stream(TALK)][-1], Weather)
    assert isinstance([part async for part in either.astream(TALK)][-1], Weather)
    parser = OrCalls(parser_of(Weather))
    for broken in (AIMessage("no JSON"), AIMessage("")):
        with pytest.raises(OutputParserException):
            parser.invoke(broken)


def test_function_calling_takes_no_other_tools() -> None:
    with pytest.raises(ConfigError, match=r"leave out tools.*json_schema"):
        scripted("").with_structured_output(Weather, method="function_calling", tools=[add])
