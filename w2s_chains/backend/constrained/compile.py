"""Compile a constraint to a llguidance grammar, and refuse what cannot be honoured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from llguidance import LLMatcher

from w2s_chains.backend.constrained.endings import byte_tokenizer, shortest_ending
from w2s_chains.backend.constrained.schemas import (
    JSON_STYLE,
    Json,
    UnsafeSchemaError,
    culprit,
    prepared,
)
from w2s_chains.backend.constrained.words import json_schemas, tool_schemas, words_of
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError

_PATIENCE = 12
"""Bytes by which an answer may exceed the shortest one, if it has fewer tokens."""
_LONGEST_WORD = 200
"""Characters of a constraint or of llguidance's reason in a message."""
_NOT_IN_BYTES = re.compile(r"(?m)^\s*[\w-]+\[[^\]\n]*\b(max_tokens|stop)\s*=|<\[[\d^*]")
"""Parts of a lark grammar that count tokens or name them by number."""


def check_constraint(constraint: Constraint) -> None:
    """Check that answers can be held to a constraint; needs no model.

    Raises:
        ConstraintError: They cannot.
    """
    shortest_answer(constraint)


def shortest_answer(constraint: Constraint, cost: Callable[[bytes], float] = len) -> bytes:
    """Find a short answer under a constraint.

    Args:
        constraint: The constraint.
        cost: Length of an answer; infinite for an answer that cannot be given.

    Raises:
        ConstraintError: The constraint cannot be honoured, or no answer under it ends.
    """
    matcher = byte_matcher(constraint)
    answer = shortest_ending(matcher, words=words_of(constraint), patience=_PATIENCE, cost=cost)
    if answer is None:
        raise ConstraintError(
            f"no finite answer in this model's tokens was found for {_described(constraint)}; make "
            "a recursive part of it optional, or its patterns simpler"
        )
    return answer


def byte_matcher(constraint: Constraint) -> LLMatcher:
    """Make a matcher that reads answers byte by byte.

    Raises:
        ConstraintError: The constraint cannot be honoured; the message says which part of it.
    """
    try:
        matcher = LLMatcher(byte_tokenizer(), llguidance_source(constraint), log_level=0)
        error = matcher.get_error().strip()
    except UnsafeSchemaError as unsafe:
        error = str(unsafe)
    else:
        if not error:
            return matcher
    where, error = _place(constraint, error)
    raise ConstraintError(
        f"{where} cannot be honoured: {_short(error)}; leave that out or write it another way "
        "(oneOf as anyOf, a set as a list, a pattern without look-around)"
    )


def _place(constraint: Constraint, error: str) -> tuple[str, str]:
    """Return which part of a constraint is at fault, in words, and what is wrong with it."""
    if constraint.kind == "json_schema":
        schema = json.loads(constraint.source)
        at = culprit(schema, lambda part: _fault(part) == error)
        return f"the json_schema constraint at {at}", error
    for name, key, schema in tool_schemas(constraint):
        own = {key: schema}

        def fault(part: Mapping[str, Any], own: Mapping[str, Any] = own) -> str:
            return _fault({**part, "$defs": {**part.get("$defs", {}), **own}})

        if said := fault(schema):
            at = culprit(schema, lambda part, said=said, fault=fault: fault(part) == said)
            return f"the schema of tool {name!r} at {at}", said
    for schema in json_schemas(constraint):
        if said := _fault(schema):
            at = culprit(schema, lambda part, said=said: _fault(part) == said)
            return f"the schema of the answer at {at}", said
    return f"the {constraint.kind} constraint", error


def _described(constraint: Constraint) -> str:
    """Return what a constraint asks for, in a few words."""
    if names := [name for name, _, _ in tool_schemas(constraint)]:
        return f"a call of {_short(' or '.join(map(repr, names)))}"
    return f"the {constraint.kind} constraint {_short(constraint.source)!r}"


def _short(text: str) -> str:
    """Return a text on one line, or as much of it as fits a message."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_WORD else line[:_LONGEST_WORD] + "..."


def _fault(schema: Mapping[str, Any]) -> str:
    try:
        source = llguidance_source(Constraint.json_schema(schema))
    except UnsafeSchemaError as unsafe:
        return str(unsafe)
    return LLMatcher(byte_tokenizer(), source, log_level=0).get_error().strip()


def llguidance_source(constraint: Constraint) -> str:
    """Translate a constraint to llguidance's own format.

    Raises:
        ConstraintError: It is not a JSON schema, or it depends on tokens.
    """
    source = constraint.source
    try:
        source.encode()
        if constraint.kind == "json_schema":
            json.dumps(json.loads(source), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(f"the {constraint.kind} constraint is no text: {error}") from error
    except ValueError:
        pass  # not JSON, which is told below
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(source)
    if constraint.kind == "json_schema":
        schema: Json
        try:
            schema = json.loads(source)
        except ValueError as error:
            raise ConstraintError(f"the schema {source[:200]!r} is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise ConstraintError(f"the schema {source[:200]!r} must be an object, such as {{}}")
        return _from_json_schema({**prepared(schema), "x-guidance": JSON_STYLE})
    if found := _NOT_IN_BYTES.search(source):
        raise ConstraintError(
            f"the lark constraint has {found.group().strip()!r}, which counts or names tokens; "
            "a constraint may only be about the text, so leave that out"
        )
    return LLMatcher.grammar_from_lark(source)


def _from_json_schema(schema: dict[str, Any]) -> str:
    try:
        return LLMatcher.grammar_from_json_schema(schema)
    except ValueError as error:  # an integer of more than 64 bits
        raise UnsafeSchemaError(str(error)) from error
