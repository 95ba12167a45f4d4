"""Keywords of JSON Schema, most of them in forms of the JSON-Schema-Test-Suite.

Accepted means that every completion is valid.
"""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from tests.helpers.grammars import accepts, compiled, completion
from tests.helpers.schemas import INT, STR
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError

FORMATS = ("path", "uri-reference", "idn-email", "regex", "json-pointer", "binary", "int64", "x")
ACCEPTED: list[dict[str, Any]] = [
    *({"type": "string", "format": name} for name in FORMATS),
    {"type": "integer", "format": "int32"},
    {"format": "date"},
    {"type": "string", "format": "date", "pattern": "^20", "minLength": 3},
    {"type": "string", "format": "email", "pattern": "com$"},
    {"additionalProperties": {"type": "boolean"}, "properties": {"foo": {}, "bar": {}}},
    {"patternProperties": {"^v": INT}, "properties": {"foo": {}}, "additionalProperties": False},
    {"patternProperties": {"^á": {}}, "additionalProperties": False},
    {"allOf": [{"properties": {"bar": INT}, "required": ["bar"]}, {"required": ["foo"]}]},
    {"allOf": [{"multipleOf": 2}], "anyOf": [{"multipleOf": 3}], "type": "integer"},
    {"anyOf": [{"type": "integer"}, {"type": "string", "minLength": 2}]},
    {"const": {"a": [False, 0, "\n"]}},
    {"enum": [[], {"foo": False}, None, 6.5, 'a"b']},
    {"type": "number", "exclusiveMinimum": 1.1, "maximum": 3.0},
    {"type": "integer", "minimum": -2.0, "exclusiveMaximum": 300},
    {"type": "number", "multipleOf": 0.5, "minimum": 0},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "array", "prefixItems": [INT, STR], "items": {"type": "boolean"}, "maxItems": 4},
    {"type": "array", "minItems": 1, "uniqueItems": False},
    {"type": "object", "minProperties": 1},
    {"type": "array", "items": INT, "maxItems": 1, "uniqueItems": True},
    {"type": "object", "minProperties": 2, "required": ["a", "b"]},
    {"type": "object", "maxProperties": 2},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": INT},
    {"type": "object", "propertyNames": {"const": "foo"}},
    {"type": "object", "propertyNames": {"maxLength": 3}},
    {"type": "object", "propertyNames": {"pattern": "^a+$"}, "additionalProperties": STR},
    {"type": "object", "propertyNames": {"format": "uuid"}, "additionalProperties": INT},
    {"type": "object", "propertyNames": True, "required": ["foo"]},
    {
        "type": "object",
        "propertyNames": {"$ref": "#/$defs/a~1b"},
        "$defs": {"a/b": {"title": "K", "type": "string", "enum": ["x"]}},
    },
    {"type": "array", "items": {"$ref": "#/$defs/day"}, "$defs": {"day": {"format": "date"}}},
    {"type": ["integer", "null", "array"], "minItems": 2, "minimum": 5},
]


@pytest.mark.parametrize("schema", ACCEPTED, ids=json.dumps)
def test_every_completion_is_valid(schema: dict[str, Any]) -> None:
    for seed in range(8):
        jsonschema.validate(json.loads(completion(Constraint.json_schema(schema), seed)), schema)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", ["2024-02-29", "2000-02-29", "0001-01-01", "1999-12-31"],
         ["2023-02-29", "1900-02-29", "0000-01-01", "2024-04-31", "2024-13-01", "2024-00-10"]),
        ("time", ["23:59:59Z", "00:00:00.123456+01:00"], ["23:59:60Z", "24:00:00Z", "12:00:00"]),
        ("date-time", ["2024-02-29T23:59:59Z"], ["2023-02-29T00:00:00Z", "2024-02-29T00:00:60Z"]),
        ("email", ["a.b+c@x-y.co.uk", "a@b.info"], ["a@b", "a..b@c.de", "a@b.local", "a@b.test"]),
        ("ipv4network", ["10.0.0.0/8", "10.1.2.128/25"], ["10.1.2.129/25", "1.2.3.4/33"]),
        ("uuid4", ["12345678-1234-4234-8234-123456789abc"],
         ["12345678-1234-3234-8234-123456789abc", "12345678-1234-4234-7234-123456789abc"]),
        ("ipv6", ["::", "1::", "::1", "1:2:3:4:5:6:7::"], ["1:2:3", "1::2::3", "12345::"]),
        ("duration", ["P1Y", "PT1H", "P2W"], ["P", "PT", "P1Y1D", "P1"]),
    ],
)  # fmt: skip
def test_formats_are_strict_and_not_too_strict(
    name: str, right: list[str], wrong: list[str]
) -> None:
    grammar = compiled({"type": "string", "format": name})
    assert [text for text in right if not accepts(grammar, json.dumps(text))] == []
    assert [text for text in wrong if accepts(grammar, json.dumps(text))] == []


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"maxItems": "3"}, "maxItems is '3'; it must be a whole number"),
        ({"minLength": 1.5}, "minLength is 1.5; it must be a whole number"),
        ({"minItems": True}, "minItems is True; it must be a whole number"),
        ({"required": 3}, "required is 3; it must be a list"),
        ({"required": [3]}, "must be a list of names"),
        ({"enum": {"a": 1}}, "enum is {'a': 1}; it must be a list"),
        ({"anyOf": {}}, "anyOf is {}; it must be a list"),
        ({"properties": []}, "properties is []; it must be an object"),
        ({"pattern": 3}, "pattern is 3; it must be a string"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_keyword_of_the_wrong_kind_is_named(
    schema: dict[str, Any], message: str, deep: bool
) -> None:
    whole = {"type": "object", "properties": {"x": schema}} if deep else schema
    with pytest.raises(ConstraintError, match=re.escape(message)) as told:
        check_constraint(Constraint.json_schema(whole))
    assert ("#/properties/x" in str(told.value)) == deep
