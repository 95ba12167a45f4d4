"""Make constraints that demand or allow tool calls in an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from w2s_chains.backend.constrained.schemas import (
    JSON_STYLE,
    UnsafeSchemaError,
    prepared,
    relocated,
)
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConstraintError


def tool_call(
    tools: Mapping[str, Mapping[str, Any]],
    *,
    parallel: bool = False,
    form: CallFormat = DEFAULT_CALLS,
) -> Constraint:
    """Require the answer to be a call of one of ``tools``; give one tool to force that one.

    Args:
        tools: The JSON schema of each tool's arguments, by the tool's name.
        parallel: Allow more calls after the first.
        form: The format of calls.

    Raises:
        ConstraintError: There is no tool.
    """
    more = " (BETWEEN call)*" if parallel else ""
    return Constraint.lark(f"start: call{more}\n{_rules(tools, form)}")


def text_or_tool_call(
    tools: Mapping[str, Mapping[str, Any]],
    *,
    parallel: bool = False,
    form: CallFormat = DEFAULT_CALLS,
) -> Constraint:
    """Allow text, or text (often empty) followed by a call of one of ``tools``.

    After the first word of ``form.begin`` a call must follow. For the arguments see ``tool_call``.

    Raises:
        ConstraintError: There is no tool, or the format has no mark that tells a call from text.
    """
    mark = _mark(form)
    rest = form.begin[form.begin.index(mark) + len(mark) :]
    pattern = re.escape(mark).replace("/", r"\/")
    more = " (BETWEEN call)*" if parallel else ""
    return Constraint.lark(
        f"start: TEXT | opening {_literal(rest)} body{more}\n"
        f"TEXT: /(?s:.*)/ & ~/(?s:.*){pattern}(?s:.*)/\n"
        f"opening[lazy]: /(?s:.*){pattern}/\n"
        f"{_rules(tools, form)}"
    )


def tool_call_or_json(
    tools: Mapping[str, Mapping[str, Any]],
    schema: Mapping[str, Any],
    *,
    parallel: bool = False,
    form: CallFormat = DEFAULT_CALLS,
) -> Constraint:
    """Allow a call of one of ``tools``, or JSON that is valid under ``schema``.

    For the other arguments see ``tool_call``.

    Raises:
        ConstraintError: There is no tool, or the format has no mark that tells a call from JSON.
    """
    _mark(form)
    more = " (BETWEEN call)*" if parallel else ""
    answer = {"x-guidance": JSON_STYLE, **prepared(schema)}
    return Constraint.lark(
        f"start: call{more} | answer\nanswer: %json {json.dumps(answer)}\n{_rules(tools, form)}"
    )


def _mark(form: CallFormat) -> str:
    if not form.mark:
        raise ConstraintError(
            f"calls that begin with {form.begin!r} cannot be told from text; give CallFormat a "
            "begin, or use tool_call"
        )
    return form.mark


def _rules(tools: Mapping[str, Mapping[str, Any]], form: CallFormat) -> str:
    if not tools:
        raise ConstraintError("there is no tool to call; give at least one")
    calls = [
        {
            "type": "object",
            "properties": {
                form.name_key: {"const": name},
                form.arguments_key: {"$ref": f"#/$defs/tool{i}"},
            },
            "required": [form.name_key, form.arguments_key],
            "additionalProperties": False,
        }
        for i, name in enumerate(tools)
    ]
    arguments = {
        f"tool{i}": relocated(_prepared(name, schema), f"#/$defs/tool{i}")
        for i, (name, schema) in enumerate(tools.items())
    }
    schema = {"x-guidance": JSON_STYLE, "anyOf": calls, "$defs": arguments}
    return (
        f"call: {_literal(form.begin)} body\n"
        f"body: json {_literal(form.end)}\n"
        f"json: %json {json.dumps(schema)}\n"
        f"BETWEEN: {_literal(form.between)}\n"
    )


def _prepared(name: str, schema: Mapping[str, Any]) -> Any:
    try:
        return prepared(schema)
    except UnsafeSchemaError as error:
        raise ConstraintError(f"the schema of tool {name!r} cannot be honoured: {error}") from error


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
