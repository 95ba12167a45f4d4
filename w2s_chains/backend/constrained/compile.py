"""Compile a constraint to a llguidance grammar, and refuse what cannot be honoured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from llguidance import LLMatcher

from w2s_chains.backend.constrained.endings import byte_tokenizer, shortest_ending
from w2s_chains.backend.constrained.schemas import JSON_STYLE, Json, closed, culprit
from w2s_chains.backend.constrained.words import words_of
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError

_PATIENCE = 12
"""Bytes by which an answer may exceed the shortest one, if it has fewer tokens."""
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
            f"no finite answer in this model's tokens was found under the {constraint.kind} "
            f"constraint {constraint.source[:200]!r}; make a recursive part of it optional, or "
            "anchor its patterns (^...$)"
        )
    return answer


def byte_matcher(constraint: Constraint) -> LLMatcher:
    """Make a matcher that reads answers byte by byte.

    Raises:
        ConstraintError: The constraint cannot be honoured; the message says which part of it.
    """
    matcher = LLMatcher(byte_tokenizer(), llguidance_source(constraint), log_level=0)
    error = matcher.get_error().strip()
    if not error:
        return matcher
    where = ""
    if constraint.kind == "json_schema":
        at = culprit(json.loads(constraint.source), lambda part: _fault(part) == error)
        where = f" at {at}"
    raise ConstraintError(
        f"the {constraint.kind} constraint cannot be honoured{where}: {error}; leave that out or "
        "write it another way (oneOf as anyOf, a set as a list, a pattern without look-around)"
    )


def _fault(schema: Mapping[str, Any]) -> str:
    source = llguidance_source(Constraint.json_schema(schema))
    return LLMatcher(byte_tokenizer(), source, log_level=0).get_error().strip()


def llguidance_source(constraint: Constraint) -> str:
    """Translate a constraint to llguidance's own format.

    Raises:
        ConstraintError: It is not a JSON schema, or it depends on tokens.
    """
    source = constraint.source
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
        return LLMatcher.grammar_from_json_schema({**closed(schema), "x-guidance": JSON_STYLE})
    if found := _NOT_IN_BYTES.search(source):
        raise ConstraintError(
            f"the lark constraint has {found.group().strip()!r}, which counts or names tokens; "
            "a constraint may only be about the text, so leave that out"
        )
    return LLMatcher.grammar_from_lark(source)
