"""Constrained decoding: whatever a model prefers, the answer has its form when its tokens end."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.grammars import (
    MODELS,
    NO_LIMIT,
    accepts,
    compiled,
    decode,
    grammars,
    opening,
    rambling,
    spelt,
    tiny_grammars,
    uniform,
    walk,
)
from tests.helpers.schemas import INT, PERSON, STR, schemas
from w2s_chains.core.sampling import Constraint


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schemas, st.integers(0, 40), st.sampled_from(sorted(MODELS)), st.integers(0, 99))
def test_an_answer_is_valid_whatever_the_model_prefers(
    schema: dict[str, Any], spare: int, model: str, seed: int
) -> None:
    grammar = compiled(schema)
    left = grammar.shortest + spare
    grammar.check(left)
    ids, state = walk(grammar, left, MODELS[model](grammar, seed))
    assert state.ended
    assert len(ids) < left
    value = json.loads(decode(grammar, ids))
    jsonschema.validate(value, schema)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schemas, st.integers(0, 60), st.integers(0, 99))
def test_an_answer_is_valid_with_another_vocabulary(
    schema: dict[str, Any], spare: int, seed: int
) -> None:
    grammar = tiny_grammars().compile(Constraint.json_schema(schema))
    ids, state = walk(grammar, grammar.shortest + spare, rambling(grammar, seed))
    assert state.ended
    jsonschema.validate(json.loads(decode(grammar, ids)), schema)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_recursion_ends(model: str) -> None:
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["kids", "next"],
            }
        },
        "$ref": "#/$defs/node",
    }
    grammar = compiled(schema)
    for seed in range(8):
        ids, state = walk(grammar, grammar.shortest + seed * 15, MODELS[model](grammar, seed))
        assert state.ended
        jsonschema.validate(json.loads(decode(grammar, ids)), schema)


def test_without_the_budget_the_answer_does_not_end() -> None:
    """Control: the budget is what makes the walks above end."""
    grammar = compiled(PERSON)
    for seed in range(5):
        ids, state = walk(grammar, 60, rambling(grammar, seed), budget=False)
        assert not state.ended
        assert len(ids) == 60
        with pytest.raises((ValueError, UnicodeDecodeError)):
            json.loads(decode(grammar, ids))


def test_a_wide_budget_refuses_nothing() -> None:
    """The budget is felt only where it is tight: elsewhere the grammar alone decides."""
    grammar = compiled(PERSON)
    free, _ = walk(grammar, 200, uniform(grammar, 3), steps=20, budget=False)
    held, state = walk(grammar, 200, uniform(grammar, 3), steps=20)
    assert held == free
    assert not state.curtailed
    _, state = walk(grammar, grammar.shortest + 5, rambling(grammar, 3))
    assert state.curtailed, "control: a tight budget is felt"


def test_all_tokens_may_be_used() -> None:
    """A string may be as long as the budget allows: it is closed with the last tokens."""
    grammar = compiled(PERSON)
    ids, _ = walk(grammar, 40, rambling(grammar, 0))
    assert len(ids) + 1 == 40


def test_a_large_branch_can_be_entered() -> None:
    """The ending of what an alternative opens is found, however far it is."""
    fields = {f"field_{i}": {"anyOf": [STR, INT, {"type": "null"}]} for i in range(30)}
    large = {"type": "object", "properties": fields, "required": list(fields)}
    grammar = compiled({"anyOf": [{"type": "null"}, large]})
    (token,) = spelt(grammar, "{")
    state = grammar.start.advance(token, NO_LIMIT)
    assert state is not None
    assert json.loads("{" + state.ending.decode()).keys() == fields.keys()
    assert grammar.start.advance(token, 50) is None, "control: not with so few tokens"


def test_json_is_written_one_way() -> None:
    grammar = compiled(PERSON)
    value = {"name": "x", "age": 3, "größe": "🙂", "tags": ["a", "b"]}
    assert accepts(grammar, json.dumps(value, ensure_ascii=False))
    for text in (
        json.dumps(value, ensure_ascii=False, indent=1),
        json.dumps(value, ensure_ascii=False).replace("{", "{ "),
        json.dumps(value, ensure_ascii=False).replace("[", "[\n"),
        json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        json.dumps(dict(reversed(value.items())), ensure_ascii=False),
        json.dumps(value | {"more": 1}, ensure_ascii=False),
        json.dumps(value | {"name": "\ud800"}),
    ):
        assert not accepts(grammar, text), text


def test_objects_stay_open_where_the_schema_speaks_of_other_properties() -> None:
    for schema in (
        {"type": "object"},
        {"type": "object", "properties": {"a": INT}, "additionalProperties": INT},
        {"type": "object", "properties": {"a": INT}, "required": ["b"]},
        {"allOf": [{"properties": {"a": INT}, "type": "object"}, {"properties": {"b": INT}}]},
    ):
        assert accepts(compiled(schema), '{"a": 1, "b": 2}'), schema
    assert not accepts(compiled({"type": "object", "properties": {"a": INT}}), '{"a": 1, "b": 2}')


def test_a_regular_expression() -> None:
    pattern = r"(yes|no)(, because [a-z ]{3,}\.)?"
    grammar = grammars().compile(Constraint.regex(pattern))
    assert grammar.shortest == 2
    for seed in range(5):
        ids, state = walk(grammar, 12, rambling(grammar, seed))
        assert state.ended
        assert re.fullmatch(pattern, decode(grammar, ids))


def test_a_lark_grammar() -> None:
    grammar = grammars().compile(
        Constraint.lark('start: sum\nsum: term ("+" sum)?\nterm: /[0-9]/ | "(" sum ")"')
    )
    for seed in range(5):
        ids, state = walk(grammar, 20, opening(grammar, seed))
        assert state.ended
        assert isinstance(eval(decode(grammar, ids)), int)
