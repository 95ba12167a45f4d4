"""Tools, however they are given, and which of them is called."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from tests.helpers.tools import (
    CHOICE,
    FORMS,
    NOW,
    PAIR,
    TALK,
    TWO,
    Tree,
    Weather,
    add,
    called,
    schema_of,
    scripted,
    seen,
    shout,
    streamed,
)
from w2s_chains import ChatW2S, Sampling
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.tools import tool_dicts

# Tools, however they are given.


@pytest.mark.parametrize("name", sorted(FORMS))
def test_a_forced_call_is_valid_whatever_the_tool_is_given_as(chat: ChatW2S, name: str) -> None:
    bound = chat.bind_tools([FORMS[name]], tool_choice=name)
    for seed in range(3):
        message = bound.invoke(TALK, seed=seed)
        [(called_name, args)] = called(message)
        assert called_name == name
        jsonschema.validate(args, schema_of(FORMS[name]))
        assert message.content == ""
        assert message.response_metadata["finish_reason"] == "tool_calls"
    assert f'"name": "{name}"' in seen(chat, bound)
    with pytest.raises(jsonschema.ValidationError):  # control
        jsonschema.validate({"no": "such argument"}, schema_of({**PAIR, "title": name}))


def test_what_is_called_can_be_run(chat: ChatW2S) -> None:
    for seed in range(5):
        asked = {"seed": seed, "tool_choice": "any"}
        message = chat.bind_tools([add, shout, Weather, Tree], **asked).invoke(TALK)
        [(name, args)] = called(message)
        runs: dict[str, Any] = {"add": lambda args: add(**args), "shout": shout.invoke}
        runs |= {"Weather": Weather.model_validate, "Tree": Tree.model_validate}
        runs[name](args)


def test_nothing_of_a_schema_is_lost() -> None:
    """LangChain's own conversion makes anything of a recursive model, and of a bare choice."""
    assert "$ref" in json.dumps(schema_of(Tree))
    assert schema_of(CHOICE) == {"anyOf": CHOICE["anyOf"]}
    assert schema_of(NOW) == {"type": "object", "maxProperties": 0}
    assert schema_of(Weather)["$defs"]["City"]["properties"]["name"] == {
        "maxLength": 8, "type": "string",
    }  # fmt: skip
    tree: dict[str, Any] = {"leaf": "a", "children": [{"leaf": "b", "children": []}]}
    jsonschema.validate(tree, schema_of(Tree))
    tree["children"][0]["leaf"] = "c"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, schema_of(Tree))


def test_equal_tools_count_once() -> None:
    described = tool_dicts([add])
    assert tool_dicts([add, add, described[0], copy.deepcopy(described[0])]) == described
    told = copy.deepcopy(described[0])
    told["function"]["description"] = "Said in other words."
    assert tool_dicts([add, told]) == described
    other = copy.deepcopy(described[0])
    other["function"]["parameters"]["properties"]["title"] = {"type": "string"}
    with pytest.raises(ConfigError, match=r"two tools have the name 'add'; rename"):
        tool_dicts([add, other])


# Which tool.


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("any", {"add", "now"}),
        ("required", {"add", "now"}),
        (True, {"add", "now"}),
        ("now", {"now"}),
        ({"type": "function", "function": {"name": "now"}}, {"now"}),
        ({"type": "tool", "name": "add"}, {"add"}),
        ({"type": "any"}, {"add", "now"}),
        ("none", set()),
        ("auto", set()),  # a random model hardly ever hits the mark of a call
        (None, set()),
        (False, set()),
    ],
)
def test_tool_choice(chat: ChatW2S, choice: Any, names: set[str]) -> None:
    bound = chat.bind_tools([add, NOW], tool_choice=choice)
    messages = [
        bound.invoke(TALK, seed=seed, strategy=Sampling(), max_tokens=90) for seed in range(9)
    ]
    assert {name for message in messages for name, _ in called(message)} == names
    assert all(bool(message.content) != bool(message.tool_calls) for message in messages)
    assert ("# Tools" in seen(chat, bound)) == (choice != "none")
    assert all(len(message.tool_calls) <= 1 for message in messages)


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        ("Hello <tool>!  ", "Hello <tool>!  ", []),
        (TWO, "", [("add", {"a": 1, "b": 2}), ("now", {})]),
        ("Let me see: {x}\n" + TWO, "Let me see: {x}", [("add", {"a": 1, "b": 2}), ("now", {})]),
        ("", "", []),
    ],
)
def test_text_before_calls(text: str, said: str, calls: list[Any], size: int) -> None:
    bound = scripted(text, size=size).bind_tools([add, NOW], parallel_tool_calls=True)
    for message in (bound.invoke(TALK), streamed(bound)):
        assert (message.content, called(message)) == (said, calls)
        assert message.response_metadata["finish_reason"] == ("tool_calls" if calls else "eos")


def test_parallel_calls() -> None:
    several = scripted(TWO).bind_tools([add, NOW], parallel_tool_calls=True, tool_choice="any")
    message = several.invoke(TALK)
    assert [name for name, _ in called(message)] == ["add", "now"]
    assert len({call["id"] for call in message.tool_calls}) == 2
    for choice in ("auto", "any"):
        with pytest.raises(AssertionError, match="tool_call"):  # it has not the form
            scripted(TWO).bind_tools([add, NOW], tool_choice=choice)
