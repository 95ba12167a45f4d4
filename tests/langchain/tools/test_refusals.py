"""What is refused when tools or a schema are bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.llms import forwards
from tests.helpers.tools import NOW, PAIR, TALK, Dated, Weather, add, called
from w2s_chains import ChatW2S, Expand, HuggingFaceProposer, Hypothesis, Sampling
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConfigError, ConstraintError


class Remote:
    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        raise AssertionError


@pytest.mark.parametrize(
    ("tools", "options", "told"),
    [
        ([add], {"tool_choice": "ad"}, "tool_choice 'ad' is none of the tools; did you mean 'add'"),
        ([add], {"tool_choice": {"type": "function", "function": {"name": "x"}}}, "'x' is none"),
        ([add], {"tool_choice": ["add"]}, r"tool_choice \['add'\] is none of the tools"),
        ([], {"tool_choice": "any"}, "'any', but there are no tools"),
        ([add, {**NOW, "title": "add"}], {}, "two tools have the name 'add'; rename one"),
        ([{**NOW, "title": "any"}], {}, "tool_choice 'any' would not mean the tool 'any'; rename"),
        ([{"type": "web_search"}], {}, "'web_search'.*is not a function.*give functions"),
        ([3], {}, "tool 3 cannot be described"),
        ([{"type": "object", "properties": {}}], {}, "cannot be described.*'title'"),
        (3, {}, "tools are a list, not 3"),
        ([{"title": "x", "type": "array", "items": {}}], {}, "arguments of tool 'x'.*'array'"),
        ([add], {"stop": ["a"]}, r"stop strings \['a'\] could cut.*leave out stop"),
        ([add], {"tool_choice": "any", "max_tokens": 3}, "max_tokens is 3"),
        ([add], {"constraint": Constraint.regex("a")}, "two forms of one answer"),
        ([add], {"response_format": {"type": "yaml"}}, "response_format {'type': 'yaml'} is unk"),
        ([{**PAIR, "properties": {"a": {"uniqueItems": True}}}], {}, "uniqueItems"),
    ],
    ids=lambda value: None,  # the same in every process
)  # fmt: skip
def test_refusals_at_bind_time(chat: ChatW2S, tools: Any, options: Any, told: str) -> None:
    with pytest.raises((ConfigError, ConstraintError), match=f"(?s){told}"):
        chat.bind_tools(tools, **options)
    assert forwards(chat) == 0


def test_text_of_few_tokens_is_no_call(chat: ChatW2S) -> None:
    """Control: without a forced call so few tokens are enough."""
    message = chat.bind_tools([add], max_tokens=3).invoke(TALK)
    assert message.content
    assert not called(message)


def test_proposers_that_cannot(chat: ChatW2S) -> None:
    remote = ChatW2S(proposer=Remote(), strategy=Sampling())
    raw = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    untold = ChatW2S(proposer=raw, strategy=Sampling())
    with pytest.raises(ConfigError, match="Remote cannot keep its answers to a form"):
        remote.bind_tools([add])
    with pytest.raises(ConfigError, match="Remote cannot keep its answers to a form"):
        remote.with_structured_output(Weather)
    with pytest.raises(ConfigError, match="no chat template that could tell it of tools"):
        untold.bind_tools([add])
    profiles: list[Any] = [model.profile or {} for model in (chat, untold, remote)]
    assert [p["tool_calling"] for p in profiles] == [True, False, False]
    assert [p["structured_output"] for p in profiles] == [True, True, False]
    # Who reads no chat template is not shown the schema, and keeps to it all the same.
    assert isinstance(untold.with_structured_output(Dated, max_tokens=60).invoke(TALK), dict)


@pytest.mark.parametrize(
    ("schema", "options", "told"),
    [
        (Weather, {"method": "yaml"}, "unknown method 'yaml'; choose json_schema"),
        (Weather, {"stop": "a"}, "could cut an answer"),
        (Weather, {"max_tokens": 3}, "max_tokens is 3"),
        (Weather, {"temprature": 3}, "'temprature'.*did you mean 'temperature'"),
        (3, {}, "3 is no schema of an answer"),
        (None, {}, "None is no schema of an answer"),
        (None, {"method": "function_calling"}, "tool None cannot be described"),
        ({"properties": {"a": {"uniqueItems": True}}}, {}, "uniqueItems"),
        ({"type": "object"}, {"method": "function_calling"}, "'title'"),
    ],
    ids=lambda value: None,
)
def test_refusals_of_structured_output(chat: ChatW2S, schema: Any, options: Any, told: str) -> None:
    with pytest.raises((ConfigError, ConstraintError), match=f"(?s){told}"):
        chat.with_structured_output(schema, **options)
    assert forwards(chat) == 0
