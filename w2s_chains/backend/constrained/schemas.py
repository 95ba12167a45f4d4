"""Prepare JSON schemas for weak models, and find the part of a schema that is at fault."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from w2s_chains.backend.constrained.formats import patterns_of
from w2s_chains.errors import ConstraintError, shown

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

_NATIVE_FORMATS = frozenset({"hostname", "uri"})
"""Formats that llguidance reads as strictly as we would."""
_ANNOTATIONS = frozenset({"title", "description", "examples", "default", "$comment", "deprecated"})
_UNWRITABLE = re.compile(r"(?<!\\)(?:\\\\)*\\u00[01]")
"""Escapes of JSON that ``JSON_STYLE`` leaves out."""
_MOST_REFERENCES = 100
_ONE = ("items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_WHOLE = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
)
_MERGED = ("properties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if", "not")


class UnsafeSchemaError(ConstraintError):
    """A schema under which llguidance would allow answers that are not valid."""


def closed(schema: Json) -> Any:
    """Return ``schema`` with objects that allow only the properties they list.

    A schema normally allows any other property, and a weak model keeps inventing them. All that is
    valid under the closed schema is valid under the original. Objects that say something about
    other properties stay as they are. So does the whole schema if it combines parts (allOf and the
    like), since each part knows only its own properties.

    Raises:
        UnsafeSchemaError: A keyword has a value of another kind than JSON Schema gives it.
    """
    _check_kinds(schema)
    return schema if _intersects(schema) else _close(schema)


def _check_kinds(schema: Json) -> None:
    if not isinstance(schema, Mapping):
        return
    value: Json
    for key, value in schema.items():
        kind = ""
        if key in _WHOLE:
            whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
            kind = "" if whole and not isinstance(value, bool) else "a whole number"
        elif key in _LISTS or key in ("required", "enum"):
            kind = "" if isinstance(value, list) else "a list"
        elif key in _MAPS:
            kind = "" if isinstance(value, Mapping) else "an object"
        elif key in ("pattern", "$ref"):
            kind = "" if isinstance(value, str) else "a string"
        if kind:
            raise UnsafeSchemaError(f"{key} is {shown(value)}; it must be {kind}")
    names: Json = schema.get("required", [])
    if isinstance(names, list) and not all(isinstance(name, str) for name in names):
        raise UnsafeSchemaError(f"required is {shown(names)}; it must be a list of names")
    for _, child in _children(schema):
        _check_kinds(child)


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


def prepared(schema: Json) -> Any:
    """Return ``schema`` closed (see ``closed``) and in the words that llguidance knows.

    Formats become patterns or, if unknown, vanish, since JSON Schema has them as annotations. Names
    of properties become properties or patterns.
    """
    return _portable(closed(schema), schema)


def _portable(schema: Json, root: Json) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    result = _with_children(schema, lambda child: _portable(child, root))
    name = result.get("format")
    if name == "finite":  # within bounds llguidance writes no exponents, such as 1e999
        del result["format"]
        result |= {"minimum": -1e18, "maximum": 1e18}
    elif isinstance(name, str) and name not in _NATIVE_FORMATS:
        del result["format"]
        found = [{"pattern": pattern} for pattern in patterns_of(name)]
        if len(found) == 1 and "pattern" not in result:
            result |= found[0]
        elif found:
            result["allOf"] = [*result.get("allOf", ()), *found]
    values = [result["const"]] if "const" in result else result.get("enum", ())
    if _UNWRITABLE.search(json.dumps(values)):
        raise UnsafeSchemaError("const or enum has text with control characters")
    if "propertyNames" in result:
        result = _with_names(result, result["propertyNames"], root)
    if result.get("uniqueItems") is False or result.get("maxItems", 2) < 2:
        result.pop("uniqueItems", None)
    least = result.get("minProperties", 0)
    if least > max(1, len(result.get("required", ()))) and _may_repeat(result):
        raise UnsafeSchemaError(
            f"minProperties is {least}, but names that the schema does not list may repeat"
        )
    return result


def _with_names(schema: dict[str, Any], names: Json, root: Json) -> dict[str, Any]:
    """Return an object's schema without ``propertyNames``, if one pattern or list says the same."""
    rest = {key: value for key, value in schema.items() if key != "propertyNames"}
    names = _resolved(names, root)
    if names is True or not isinstance(names, Mapping):
        return rest if names is True else schema
    said = set(names) - _ANNOTATIONS - ({"type"} if names.get("type") == "string" else set[str]())
    if not said:
        return rest
    if {"properties", "patternProperties", "required"} & set(rest) or len(said) > 1:
        return schema
    values: Json = rest.pop("additionalProperties", True)
    if said <= {"enum", "const"}:
        listed: list[Any] = names["enum"] if "enum" in names else [names["const"]]
        allowed = {name: values for name in listed if isinstance(name, str)}
        return {**rest, "properties": allowed, "additionalProperties": False}
    patterns = [names["pattern"]] if said == {"pattern"} else []
    if said == {"minLength"} or said == {"maxLength"}:
        bounds = f"{names.get('minLength', 0)},{names.get('maxLength', '')}"
        patterns = [f"^(?s:.{{{bounds}}})$"]
    if len(patterns) != 1:
        return schema
    return {**rest, "patternProperties": {patterns[0]: values}, "additionalProperties": False}


def _resolved(schema: Json, root: Json) -> Json:
    """Follow a local reference."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(schema, Mapping) or set(schema) != {"$ref"}:
            break
        node: Json = root
        for part in str(schema["$ref"]).removeprefix("#").split("/")[1:]:
            part = part.replace("~1", "/").replace("~0", "~")
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is None:
            break
        schema = node
    return schema


def _may_repeat(schema: Mapping[str, Any]) -> bool:
    """Return whether an object may have names that it does not list, each more than once."""
    return schema.get("additionalProperties", True) is not False or ("patternProperties" in schema)


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
