"""Schemas, patterns and grammars that answers must follow: compiled, or refused."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.helpers.fuzzing import TEXT, fuzz, garbled
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.core.sampling import Constraint

KINDS = ["object", "string", "integer", "number", "boolean", "null", "array", "date"]
FORMATS = ["date", "date-time", "uuid", "email", "path", "uri-reference", "ipv4", "nope"]
PATTERNS = [r"^\d{3}-\d{4}$", r"a|b", "[a-z]{2,5}", "(", "(?=a)", r"\bx\b", "^$", "é+"]
SMALL = st.integers(-1, 9) | st.floats(-3, 9) | st.sampled_from(["3", None, True])
SCHEMAS = st.recursive(
    st.booleans()
    | st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(KINDS) | st.lists(st.sampled_from(KINDS), max_size=2),
            "enum": st.lists(st.integers(0, 3) | TEXT | st.none(), max_size=3),
            "const": st.integers(0, 3) | TEXT,
            "format": st.sampled_from(FORMATS),
            "pattern": st.sampled_from(PATTERNS),
            "minLength": SMALL,
            "maxLength": SMALL,
            "minimum": SMALL,
            "maximum": SMALL,
            "multipleOf": SMALL,
            "$ref": st.sampled_from(["#", "#/$defs/a", "#/nowhere", "http://x"]),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array"]),
            "properties": st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3),
            "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=3),
            "additionalProperties": inner,
            "items": inner,
            "prefixItems": st.lists(inner, max_size=2),
            "minItems": SMALL,
            "maxItems": SMALL,
            "anyOf": st.lists(inner, max_size=3),
            "oneOf": st.lists(inner, max_size=3),
            "allOf": st.lists(inner, max_size=2),
            "not": inner,
            "$defs": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        },
    ),
    max_leaves=6,
)
LARK = 'start: a b*\na: /[a-z]+/\nb: " " a\n'


def test_json_schemas(until: float | None) -> None:
    def check(schema: Any) -> None:
        check_constraint(Constraint.json_schema(schema))

    fuzz(check, SCHEMAS, until)


def test_garbled_sources(until: float | None) -> None:
    def check(given: tuple[Any, str]) -> None:
        check_constraint(Constraint(kind=given[0], source=given[1]))

    sources = st.one_of(
        st.tuples(st.just("regex"), garbled(r"(yes|no)[0-9]{1,3}(a+b)?")),
        st.tuples(st.just("lark"), garbled(LARK)),
        st.tuples(st.just("json_schema"), garbled('{"type": "object", "properties": {"a": {}}}')),
    )
    fuzz(check, sources, until)
