"""The shortest answer of a form is found."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, example, given, settings

from tests.helpers.grammars import compiled, uniform, walk
from tests.helpers.schemas import STR, schemas
from w2s_chains.backend.constrained.compile import shortest_answer
from w2s_chains.backend.constrained.tool_calls import tool_call
from w2s_chains.backend.constrained.words import words_of
from w2s_chains.core.sampling import Constraint

ONE_TOKEN_OR_FOUR = {
    "type": "array",
    "prefixItems": [{"enum": [-727, None]}, {"enum": [-727, -484]}],
    "items": False,
    "minItems": 2,
}
"""Answers of the same number of bytes: -727 takes four tokens, null takes one."""


@given(schemas)
@example(ONE_TOKEN_OR_FOUR)
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,  # a heuristic is under test: rare schemas are beyond it
    suppress_health_check=[HealthCheck.too_slow],
)
def test_the_shortest_answer_is_short(schema: dict[str, Any]) -> None:
    """No random walk finds a shorter one, but by a token."""
    grammar = compiled(schema)
    assume(grammar.shortest < 60)
    for seed in range(3):
        ids, state = walk(grammar, grammar.shortest + 6, uniform(grammar, seed))
        assert state.ended
        assert len(ids) + 1 >= grammar.shortest - 1


FRACTION = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
ABC = {"type": "string", "pattern": "^(ab)+c$"}


@pytest.mark.parametrize(
    ("schema", "shortest"),
    [
        ({"type": "array", "items": {"type": "array", "items": ABC, "minItems": 1}, "minItems": 2},
         [["abc"], ["abc"]]),
        ({"type": "object", "properties": {f"f{i}": STR for i in range(20)},
          "required": ["f10", "f19"]}, {"f10": "", "f19": ""}),
        ({"enum": ["a very long option", "b", "longer than b"]}, "b"),
        ({"type": "array", "prefixItems": [{"type": "string", "minLength": 1},
          {"type": "string", "pattern": "[0-9]"}], "items": False, "minItems": 2}, 10),
        ({"type": "string", "pattern": r"^\S+@\S+\.\S+$"}, 7),
        ({"type": "string", "pattern": "[0-9].@"}, 5),
        ({"type": "string", "minLength": 10}, 12),
        ({"type": "integer", "multipleOf": 7, "minimum": 100}, 105),
        ({"type": "string", "format": "date"}, 12),
        ({"type": "string", "pattern": r"\d{3}-\d{4}"}, "000-0000"),
        ({"type": "string", "pattern": r"[a-z]+@[a-z]+\.com"}, "a@a.com"),
        ({"type": "string", "pattern": "hello.*world"}, "helloworld"),
        ({"type": "string", "pattern": r"\d{3}-\d{4}", "minLength": 30}, 32),
        ({"type": "string", "minLength": 500}, 502),
        ({"type": "string", "minLength": 6000}, 6002),
        ({"type": "string", "pattern": "^[a-z]{700}$"}, 702),
        ({"type": "array", "items": FRACTION, "minItems": 9}, 9 * 5),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 500}, [0] * 500),
    ],
)  # fmt: skip
def test_the_shortest_answer_is_found(schema: dict[str, Any], shortest: Any) -> None:
    """A value, or its length where there are several."""
    answer = shortest_answer(Constraint.json_schema(schema)).decode()
    jsonschema.validate(json.loads(answer), schema)
    assert json.loads(answer) == shortest or len(answer) == shortest, answer


OPEN = [
    {"type": "number", "exclusiveMinimum": 0},
    FRACTION,
    {"type": "number", "exclusiveMaximum": -1},
    {"type": "array", "items": FRACTION, "minItems": 3},
]
COUNTED = [
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "pattern": r"^\d{5}$"},
    {"type": "string", "pattern": r"\d{3}-\d{4}"},
    {"type": "string", "pattern": r"\d{3}-\d{4}", "minLength": 30},
    {"type": "string", "minLength": 600},
]


@pytest.mark.parametrize("first", [*OPEN, *COUNTED], ids=str)
@pytest.mark.parametrize("second", COUNTED, ids=str)
def test_counted_parts_after_others_are_found(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    schema = {"properties": {"a": first, "b": second}, "required": ["a", "b"], "type": "object"}
    jsonschema.validate(json.loads(shortest_answer(Constraint.json_schema(schema))), schema)


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        (r"\d{3}-\d{4}", "000-0000"),
        (r"^(ab|c)+?x*[^a-z]\.$", "c0."),
        (r"[^0aA\-]\w\S\D", "_00a"),
        (r"(?:\/v[12]){2}", "/v1/v1"),
        (r'"\\', '"\\'),
        (r"(?=a)b", None),
        (r"(a)\1", None),
        (r"\p{Letter}+\p{Nd}\pL", "a0a"),
        ("a{99999999}", None),
        ("(a{60000}){60000}", None),
        ("a" * 5, "aaaaa"),
    ],
)
def test_words_of_a_pattern(pattern: str, word: str | None) -> None:
    expected = () if word is None else (word.encode(),)
    assert words_of(Constraint.regex(pattern)) == expected
    quoted = () if word is None else (json.dumps(word)[1:-1].encode(),)
    schema = {"items": {"pattern": pattern}}
    assert words_of(Constraint.json_schema(schema)) == quoted
    assert words_of(tool_call({"f": schema})) == quoted
