"""``to_prompt`` and ``as_prompt``: convert messages of LangChain, or of a file, to a ``Prompt``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from pydantic_core import to_jsonable_python

from w2s_chains.core.prompts import Message, Prompt, Tool, ToolCall
from w2s_chains.errors import PromptError, brief, shown

_ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
# Templates insert the role next to control tokens, so arbitrary text is not allowed there.
_NAMED_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "tool": "tool",
}

_SAID_ELSEWHERE = frozenset({"tool_call", "tool_call_chunk", "tool_use", "function_call"})
"""Content blocks of an AI message that repeat its ``tool_calls``."""
_THOUGHTS = frozenset({"reasoning", "reasoning_content", "thinking", "redacted_thinking"})
"""Content blocks of an AI message that templates drop from earlier turns."""
_TEXT_KEYS = {
    "text": "text",
    "text-plain": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Where a content block of a type has its text."""
_MEDIA = re.compile("image|audio|video|file|document|media|pdf")
"""What an AI message cannot leave out. Other blocks tell what a provider's server did (searches,
code that it ran), which no chat template has a place for."""


def to_prompt(
    messages: Sequence[BaseMessage], tools: Sequence[Tool] = (), answer_schema: str | None = None
) -> Prompt:
    """Convert a conversation to a prompt.

    Args:
        messages: The conversation.
        tools: The tools that the model may call.
        answer_schema: The JSON schema of the answer, as JSON text.

    Raises:
        PromptError: There are no messages, or one has a role that chat templates do not know or
            content that is not text, or a call has arguments that are no JSON.
    """
    if not messages:
        raise PromptError("there are no messages to answer; give at least one")
    return Prompt(
        messages=tuple(map(_to_message, messages)), tools=tuple(tools), answer_schema=answer_schema
    )


def as_prompt(written: Sequence[Any]) -> Prompt:
    """Convert messages as a file has them, such as ``{"role": "user", "content": "Hi"}``.

    Raises:
        PromptError: They are no messages, or ``to_prompt`` refuses them.
    """
    try:
        messages = convert_to_messages(written)
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        told = str(error).partition("For troubleshooting")[0]
        raise PromptError(
            f"{shown(written)} is no list of chat messages: {brief(told)}; write each as "
            '{"role": "user", "content": "..."}'
        ) from error
    check_blocks(messages)
    return to_prompt(messages)


def check_blocks(messages: Iterable[BaseMessage]) -> None:
    """Refuse content blocks that LangChain itself stumbles over, before it looks at them.

    Raises:
        PromptError: A block has a ``type`` that is not text.
    """
    for message in messages:
        for block in message.content if isinstance(message.content, list) else ():
            kind: Any = block.get("type", "") if isinstance(block, Mapping) else ""
            if not isinstance(kind, str):
                raise PromptError(
                    f"a {type(message).__name__} has a content block of type {shown(kind)}; a type "
                    "is text, such as 'text'"
                )


def _to_message(message: BaseMessage) -> Message:
    role = _role(message)
    content = _text(message)
    calls: list[ToolCall] = []
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            arguments = _as_json(call["args"], call["name"])
            calls.append(ToolCall(name=call["name"], arguments=arguments, id=call["id"]))
        broken = [
            f"<tool_call>\n{call.get('args') or ''}\n</tool_call>"
            for call in message.invalid_tool_calls
        ]  # invalid JSON is kept as text, since a later tool error may refer to it
        content = "\n".join(filter(None, [content, *broken]))
    return Message(
        role=role,
        content=content,
        tool_calls=tuple(calls),
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else None,
        name=message.name,
    )


def _as_json(arguments: Any, name: str) -> str:
    """Return the arguments of a call as JSON; dates, sets and the like as pydantic writes them.

    Raises:
        PromptError: They cannot be written as JSON.
    """
    try:
        return json.dumps(arguments, ensure_ascii=False, default=to_jsonable_python)
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(
            f"the arguments of the call of {name!r} in the history are no JSON: {error}; give "
            "numbers, texts, lists and mappings with text as keys"
        ) from error


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        if (role := message.role.lower()) in _NAMED_ROLES:
            return _NAMED_ROLES[role]
        raise PromptError(
            f"a chat message has the role {message.role!r}, which chat templates do not know; "
            f"use one of {', '.join(_NAMED_ROLES)}"
        )
    for kind, role in _ROLES:
        if isinstance(message, kind):
            return role
    raise PromptError(
        f"a {type(message).__name__} cannot be shown to a model; give system, human, AI and tool "
        "messages"
    )


def _text(message: BaseMessage) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(_block_text(block, message) for block in content)


def _block_text(block: str | Mapping[str, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = str(block.get("type"))
    text = block.get(_TEXT_KEYS.get(kind, ""))
    if isinstance(text, str):
        return text
    if kind == "text":
        return str(block.get("text", ""))
    if isinstance(message, AIMessage) and (
        kind in _SAID_ELSEWHERE | _THOUGHTS or (kind not in _TEXT_KEYS and not _MEDIA.search(kind))
    ):
        return ""
    raise PromptError(
        f"a {type(message).__name__} has a content block of type {kind!r}, but these models read "
        "text only; leave it out, or describe it in words"
    )
