"""Schemas that are refused before any model runs, and answers that are too short for theirs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.helpers.grammars import compiled, grammars
from tests.helpers.schemas import INT, PERSON, STR
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.backend.constrained.tool_calls import (
    text_or_tool_call,
    tool_call,
    tool_call_or_json,
)
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"uniqueItems": True}}}, ["uniqueItems", "#/properties/a"]),
        ({"$defs": {"x": {"not": {}}}, "items": {"$ref": "#/$defs/x"}}, ["not", "#/$defs/x"]),
        ({"anyOf": [INT, {"type": "string", "pattern": "("}]}, ["unclosed", "#/anyOf/1"]),
        ({"type": "string", "pattern": "(?=a)b"}, ["look-around", "at # "]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, ["oneOf", "anyOf"]),
        ({"type": "integer", "minimum": 3, "maximum": 1}, ["minimum (3)"]),
        ({"type": "strin"}, ["strin"]),
        ({"properties": {"a": {"minProperties": 2}}}, ["minProperties is 2", "#/properties/a"]),
        ({"items": {"const": "nul \x00"}}, ["control characters", "at #/items"]),
        ({"type": "integer", "minimum": -(10**30)}, ["not JSON serializable"]),
        ({"propertyNames": {"pattern": "^a", "minLength": 3}}, ["propertyNames"]),
        ({"$ref": "https://example.com/x.json"}, ["example.com"]),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, ["finite"]),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_before_any_model_runs(
    schema: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConstraintError) as caught:
        check_constraint(Constraint.json_schema(schema))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("constraint", "word"),
    [
        (Constraint(kind="json_schema", source="{"), "not JSON"),
        (Constraint(kind="json_schema", source="true"), "must be an object"),
        (Constraint.regex("[a"), "unclosed"),
        (Constraint.regex("(?!a)b"), "look-around"),
        (Constraint.lark('start: "a" B'), "B"),
        (Constraint.lark("start: a\na[max_tokens=3]: /.*/"), "max_tokens"),
        (Constraint.lark("start: <[7]>"), "<[7"),
        (Constraint.lark('start: <|im_start|> "a"'), "im_start"),
    ],
)
def test_other_refusals(constraint: Constraint, word: str) -> None:
    with pytest.raises(ConstraintError, match=re.escape(word)):
        check_constraint(constraint)


@pytest.mark.parametrize("schema", [{}, PERSON, {"type": "array"}, {"const": [1, "x"]}])
def test_what_can_be_honoured_is_not_refused(schema: dict[str, Any]) -> None:
    check_constraint(Constraint.json_schema(schema))


def test_too_few_tokens_are_refused_with_both_numbers() -> None:
    grammar = compiled(PERSON)
    with pytest.raises(ConstraintError, match=f"max_tokens is 5, .* takes {grammar.shortest} "):
        grammar.check(5)
    with pytest.raises(ConstraintError):
        grammar.check(grammar.shortest - 1)
    grammar.check(grammar.shortest)


def test_a_constraint_is_a_value() -> None:
    one, two = Constraint.json_schema(PERSON), Constraint.json_schema(dict(PERSON))
    assert one == two
    assert hash(one) == hash(two)
    assert grammars().compile(one) is grammars().compile(two)
    properties = {"b": STR, "a": INT}
    three = Constraint.json_schema({"properties": properties})
    four = Constraint.json_schema({"properties": dict(reversed(properties.items()))})
    assert three != four, "the order of properties is part of it"


def test_a_refusal_names_the_tool_and_the_place_in_its_schema() -> None:
    bad = {"type": "object", "properties": {"xs": {"$ref": "#/$defs/X"}}, "$defs": {"X": {}}}
    bad["$defs"]["X"] = {"type": "array", "uniqueItems": True}
    tools: dict[str, Any] = {f"tool_{i}": PERSON for i in range(20)} | {"the_bad_one": bad}
    for constraint in (
        tool_call(tools),
        text_or_tool_call(tools),
        tool_call_or_json(tools, PERSON),
    ):
        with pytest.raises(ConstraintError) as caught:
            check_constraint(constraint)
        said = str(caught.value)
        assert "tool 'the_bad_one' at #/properties/xs" in said
        assert "uniqueItems" in said
        assert len(said) < 300, said
        assert "tool_1" not in said
    with pytest.raises(ConstraintError, match="schema of the answer at #/properties/xs"):
        check_constraint(tool_call_or_json({"f": PERSON}, {"properties": {"xs": UNIQUE}}))
    with pytest.raises(ConstraintError, match=r"tool 'f' .* minProperties is 2"):
        tool_call({"f": {"minProperties": 2}})


UNIQUE = {"type": "array", "uniqueItems": True}


def test_a_call_without_an_end_names_its_tools() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
    with pytest.raises(ConstraintError, match="a call of 'f' or 'g'; make a recursive part") as one:
        check_constraint(tool_call({"f": endless, "g": endless}))
    assert len(str(one.value)) < 300
