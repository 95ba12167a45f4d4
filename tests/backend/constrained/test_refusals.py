"""Schemas that are refused before any model runs, and answers that are too short for theirs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.helpers.grammars import compiled, grammars
from tests.helpers.schemas import INT, PERSON, STR
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"uniqueItems": True}}}, ["uniqueItems", "#/properties/a"]),
        ({"$defs": {"x": {"not": {}}}, "items": {"$ref": "#/$defs/x"}}, ["not", "#/$defs/x"]),
        ({"anyOf": [INT, {"type": "string", "format": "colour"}]}, ["colour", "#/anyOf/1"]),
        ({"type": "string", "pattern": "(?=a)b"}, ["look-around", "at #:"]),
        ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, ["oneOf", "anyOf"]),
        ({"type": "integer", "minimum": 3, "maximum": 1}, ["minimum (3)"]),
        ({"type": "strin"}, ["strin"]),
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
