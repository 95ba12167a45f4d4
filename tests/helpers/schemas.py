"""JSON schemas: some by hand, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

STR = {"type": "string"}
INT = {"type": "integer"}
PERSON = {
    "type": "object",
    "properties": {
        "name": STR,
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "größe": {"enum": ["klein", "groß", "🙂"]},
        "tags": {"type": "array", "items": STR, "maxItems": 3},
    },
    "required": ["name", "größe", "tags"],
}

names = st.text(alphabet='abcé日🙂_ -"\\/', min_size=1, max_size=6)
texts = st.text(alphabet='abc é日🙂"\\\n\t/{}[]:,', max_size=8)
scalars = st.one_of(texts, st.integers(-999, 999), st.booleans(), st.none())


@st.composite
def bounded(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    values = st.integers(-300, 300) if kind == "integer" else st.integers(-900, 900)
    low, high = sorted((draw(values), draw(values)))
    scale = 1 if kind == "integer" else 8
    schema: dict[str, Any] = {"type": kind}
    if draw(st.booleans()):
        schema["minimum"] = low / scale if scale > 1 else low
    if draw(st.booleans()):
        schema["maximum"] = (high + scale) / scale if scale > 1 else high
    return schema


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(0, 4))
    schema: dict[str, Any] = {"type": "string"}
    if draw(st.booleans()):
        schema["minLength"] = low
    if draw(st.booleans()):
        schema["maxLength"] = low + draw(st.integers(0, 5))
    return schema


leaves = st.one_of(
    st.just(STR),
    strings(),
    bounded("integer"),
    bounded("number"),
    st.builds(lambda n: {"type": "integer", "multipleOf": n}, st.integers(1, 12)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}]),
    st.sampled_from(["^[a-z]{2}-[0-9]+$", "^(ab)+c$", "[0-9]"]).map(
        lambda p: {"type": "string", "pattern": p}
    ),
    st.lists(scalars, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    scalars.map(lambda value: {"const": value}),
)


@st.composite
def lists(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    if draw(st.booleans()):
        items = draw(st.lists(inner, min_size=1, max_size=3))
        size = len(items)
        return {"type": "array", "prefixItems": items, "items": False, "minItems": size}
    low = draw(st.integers(0, 2))
    schema = {"type": "array", "items": draw(inner), "minItems": low}
    return schema | ({"maxItems": low + draw(st.integers(0, 3))} if draw(st.booleans()) else {})


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, inner, max_size=4))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required}


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner),
        lists(inner),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
    ),
    max_leaves=8,
)
