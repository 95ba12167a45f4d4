"""Turns of a conversation as chat templates take them: merged, written out, as dictionaries."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from w2s_chains.core.prompts import Message, Prompt, Tool

_SCHEMA = """\
Answer with JSON that is valid under this JSON schema, and with nothing else:
{schema}"""


def merged(turns: Sequence[Message], roles: Collection[str]) -> list[Message]:
    """Merge neighbouring turns of one role, for each of these roles."""
    found: list[Message] = []
    for turn in turns:
        if found and turn.role in roles and found[-1].role == turn.role:
            before = found.pop()
            turn = replace(
                before,
                content="\n\n".join(filter(None, [before.content, turn.content])),
                tool_calls=(*before.tool_calls, *turn.tool_calls),
            )
        found.append(turn)
    return found


def written_out(turn: Message) -> Message:
    role = "user" if turn.role == "tool" else turn.role
    name = None if turn.role == "tool" else turn.name
    return Message(role=role, content=turn.plain_text, name=name)


def first_lost(text: str, turns: Sequence[Message]) -> Message | None:
    """Return the first turn that a rendered conversation lacks, thoughts and results left aside.

    Users' and assistants' turns must stand in their order; templates may move a system message.
    """
    at = 0
    for turn in turns:
        if turn.role == "tool":  # may be written as JSON
            continue
        said = turn.content.rpartition("</think>")[2] if turn.role == "assistant" else turn.content
        speaks = turn.role in ("user", "assistant")
        found = text.find(said.strip(), at if speaks else 0)
        if found < 0:
            return turn
        if speaks:
            at = found + len(said.strip())
    return None


def as_dict(turn: Message, parts: bool) -> dict[str, Any]:
    content = [{"type": "text", "text": turn.content}] if parts else turn.content
    values: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.name is not None:
        values["name"] = turn.name
    if turn.tool_call_id is not None:
        values["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        values["tool_calls"] = [
            {
                "type": "function",
                **({} if call.id is None else {"id": call.id}),
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in turn.tool_calls
        ]
    return values


def tool_as_dict(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": function}


def _schema_turn(schema: str) -> Message:
    """Make a system message that asks the model to answer in a JSON schema."""
    return Message(role="system", content=_SCHEMA.format(schema=schema))


def turns_of(prompt: Prompt, template: str, system: str | None) -> list[Message]:
    """Return a prompt as turns; a raw text goes into the template, and is a user's turn.

    Args:
        prompt: The prompt.
        template: Text in which ``{prompt}`` is replaced.
        system: System message to put first unless the prompt has one.
    """
    turns = list(prompt.turns)
    if prompt.text is not None:
        turns[0] = replace(turns[0], content=template.replace("{prompt}", prompt.text))
    if system is not None and turns[0].role != "system":
        turns.insert(0, Message(role="system", content=system))
    if prompt.answer_schema is not None:
        at = 1 if turns[0].role == "system" else 0
        turns.insert(at, _schema_turn(prompt.answer_schema))
    return turns
