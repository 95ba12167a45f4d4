"""``words_of``: texts that the patterns of a constraint ask for, as hints for endings.

Which bytes may follow does not show how near a pattern such as ``[0-9]{3}-[0-9]{4}`` is to its end:
before it matches anywhere, everything may follow. So we take a short match from the pattern itself.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

from w2s_chains.backend.constrained.schemas import prepared
from w2s_chains.core.sampling import Constraint

_LONGEST = 2**16
"""Characters of a word; a longer one is left out."""
_TERMINAL = re.compile(r"/((?:[^/\\\n]|\\.)+)/[imslux]*")
"""A regular expression in a lark grammar."""
_PROPERTY = re.compile(r"\\p(?:\{(\w)[^}]*\}|(\w))")
"""A property of Unicode, which Python's parser does not know: letters or numbers."""
_SAMPLES = "0aA-_ .:/,@#+"
_CATEGORIES = {
    "CATEGORY_DIGIT": "0",
    "CATEGORY_NOT_DIGIT": "a",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": "0",
    "CATEGORY_WORD": "0",
    "CATEGORY_NOT_WORD": "-",
}


@functools.lru_cache(maxsize=256)
def words_of(constraint: Constraint) -> tuple[bytes, ...]:
    """Return a short match of each pattern in a constraint, as it stands in an answer."""
    found: dict[bytes, None] = {}
    patterns = [constraint.source] if constraint.kind == "regex" else []
    if constraint.kind == "lark":
        rules = (line for line in constraint.source.splitlines() if "%json" not in line)
        patterns += [match.group(1) for line in rules for match in _TERMINAL.finditer(line)]
    for pattern in patterns:
        found |= dict.fromkeys(text.encode() for text in _matches(pattern))
    for schema in json_schemas(constraint):
        for pattern in _patterns(schema):
            for text in _matches(pattern):
                found[json.dumps(text, ensure_ascii=False)[1:-1].encode()] = None
    return tuple(found)


def json_schemas(constraint: Constraint) -> list[Any]:
    """Return the JSON schemas in a constraint, as llguidance reads them."""
    if constraint.kind == "json_schema":
        return [prepared(json.loads(constraint.source))]
    if constraint.kind == "regex":
        return []
    decode = json.JSONDecoder().raw_decode
    starts = re.finditer(r"(?m)^\s*\w+:\s*%json\s*(?=\{)", constraint.source)
    return [decode(constraint.source, start.end())[0] for start in starts]


def tool_schemas(constraint: Constraint) -> list[tuple[str, str, Any]]:
    """Return name, key among the definitions, and schema of each tool that may be called."""
    found: list[tuple[str, str, Any]] = []
    for schema in json_schemas(constraint) if constraint.kind == "lark" else []:
        for key, own in schema.get("$defs", {}).items():
            for call in schema.get("anyOf", ()):
                parts = list(call.get("properties", {}).values())
                if {"$ref": f"#/$defs/{key}"} in parts and "const" in parts[0]:
                    found.append((parts[0]["const"], key, own))
    return found


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in cast(list[Any], schema):
            yield from _patterns(part)
    elif isinstance(schema, dict):
        known = cast(dict[str, Any], schema)
        if isinstance(pattern := known.get("pattern"), str):
            yield pattern
        if isinstance(keyed := known.get("patternProperties"), dict):
            yield from cast(dict[str, Any], keyed)
        for part in known.values():
            yield from _patterns(part)


@functools.cache
def _parser() -> Any:
    """Return the parser of regular expressions, which has no public name."""
    return importlib.import_module("re._parser")


def _matches(pattern: str) -> Iterable[str]:
    try:
        known = _PROPERTY.sub(_of_property, pattern)
        word = _shortest(_parser().parse(known.replace(r"\/", "/")))
        word.encode()
    except (re.error, ValueError, OverflowError, RecursionError):  # not in Python's dialect
        return ()
    return (word,) if word else ()


def _of_property(found: re.Match[str]) -> str:
    return "0" if (found.group(1) or found.group(2)) in "NnDd" else "a"


def _shortest(parsed: Iterable[tuple[Any, Any]]) -> str:
    """Return a short match of a parsed pattern.

    Raises:
        ValueError: The pattern has a part that has no shortest match of its own.
    """
    word = "".join(_part(str(kind), value) for kind, value in parsed)
    if len(word) > _LONGEST:
        raise ValueError(f"longer than {_LONGEST} characters")
    return word


def _part(kind: str, value: Any) -> str:
    if kind == "LITERAL":
        return chr(value)
    if kind in ("ANY", "NOT_LITERAL"):
        return "b" if value == ord("a") else "a"
    if kind == "IN":
        return _one_of(value)
    if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, _, inner = value
        unit = _shortest(inner) if least else ""
        if len(unit) * least > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} characters")
        return unit * least
    if kind == "SUBPATTERN":
        return _shortest(value[-1])
    if kind == "ATOMIC_GROUP":
        return _shortest(value)
    if kind == "BRANCH":
        return min(map(_shortest, value[1]), key=len)
    if kind == "AT":
        return ""
    raise ValueError(f"{kind} has no shortest match")


def _one_of(members: Iterable[tuple[Any, Any]]) -> str:
    named = [(str(kind), value) for kind, value in members]
    if named[0][0] == "NEGATE":
        for sample in _SAMPLES:
            if not any(_contains(kind, value, sample) for kind, value in named[1:]):
                return sample
        raise ValueError("no sample is outside of the set")
    kind, value = named[0]
    if kind == "CATEGORY":
        return _CATEGORIES[str(value)]
    return chr(value[0] if kind == "RANGE" else value)


def _contains(kind: str, value: Any, sample: str) -> bool:
    if kind == "CATEGORY":
        name = str(value)
        tests = {"DIGIT": str.isdigit, "SPACE": str.isspace, "WORD": _is_word}
        inside = tests[name.rpartition("_")[2]](sample)
        return inside != ("_NOT_" in name)
    if kind == "RANGE":
        return value[0] <= ord(sample) <= value[1]
    return ord(sample) == value


def _is_word(sample: str) -> bool:
    return sample.isalnum() or sample == "_"
