"""Prepare JSON schemas for weak models, and find the part of a schema that is at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Json = Mapping[str, Any] | list[Any] | str | float | bool | None
"""A JSON schema, or any part of one."""
JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
"""Options that make llguidance write JSON as json.dumps and most training data do. With free
whitespace a weak model may write line breaks for ever, and \\ud800 stands for no character."""

_ONE = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_MERGED = ("properties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if", "not")


def closed(schema: Json) -> Any:
    """Return ``schema`` with objects that allow only the properties they list.

    A schema normally allows any other property, and a weak model keeps inventing them. All that is
    valid under the closed schema is valid under the original. Objects that say something about
    other properties stay as they are. So does the whole schema if it combines parts (allOf and the
    like), since each part knows only its own properties.
    """
    return schema if _intersects(schema) else _close(schema)


def _intersects(schema: Json) -> bool:
    if not isinstance(schema, Mapping):
        return False
    parts = sum(key in schema for key in _MERGED) + len(schema.get("allOf", ())[1:])
    return parts > 1 or any(_intersects(child) for _, child in _children(schema))


def _close(schema: Json) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    result = _with_children(schema, _close)
    said = {"additionalProperties", "patternProperties", "unevaluatedProperties"} & set(schema)
    names: Json = schema.get("properties")
    if isinstance(names, Mapping) and not said and set(schema.get("required", ())) <= set(names):
        result["additionalProperties"] = False
    return result


def relocated(schema: Json, pointer: str) -> Any:
    """Return ``schema`` with its local references rewritten for use at ``pointer`` in another."""
    if not isinstance(schema, Mapping):
        return schema
    result = _with_children(schema, lambda child: relocated(child, pointer))
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        result["$ref"] = pointer + reference[1:]
    return result


def culprit(schema: Mapping[str, Any], fails: Callable[[Mapping[str, Any]], bool]) -> str:
    """Return the JSON pointer to the innermost part of ``schema`` for which ``fails`` is true."""
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    pointer = "#"
    node = schema
    while True:
        for name, child in _children(node):
            if isinstance(child, Mapping) and fails({**shared, **child}):
                pointer, node = f"{pointer}/{name}", child
                break
        else:
            return pointer


def _with_children(schema: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    result = dict(schema)
    value: Json
    for key, value in schema.items():
        if key in _ONE:
            result[key] = change(value)
        elif key in _LISTS and isinstance(value, list):
            result[key] = [change(child) for child in value]
        elif key in _MAPS and isinstance(value, Mapping):
            result[key] = {name: change(child) for name, child in value.items()}
    return result


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    value: Json
    for key, value in schema.items():
        if key in _ONE:
            yield key, value
        elif key in _LISTS and isinstance(value, list):
            yield from ((f"{key}/{i}", child) for i, child in enumerate(value))
        elif key in _MAPS and isinstance(value, Mapping):
            yield from ((f"{key}/{name}", child) for name, child in value.items())
