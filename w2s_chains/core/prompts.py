"""``Prompt`` (raw text, or chat ``Message``s and ``Tool``s) and ``CallFormat`` of tool calls."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from w2s_chains.errors import PromptError, shown
from w2s_chains.values import is_text


def _check(name: str, value: object, optional: bool = False) -> None:
    """Refuse what no model can read: what is not text, or has half of a surrogate pair."""
    if not is_text(value) and not (optional and value is None):
        why = "it has half of a surrogate pair" if isinstance(value, str) else "it is no text"
        raise PromptError(f"{name} is {shown(value)}: {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: Its name.
        description: What it does; shown to the model.
        parameters: JSON schema of its arguments, as JSON text.
    """

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A tool call made by the model.

    Attributes:
        name: Name of the tool.
        arguments: The arguments, a JSON object as JSON text.
        id: Identifies the call in the message with its result.
    """

    name: str
    arguments: str = "{}"
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool".
        content: The text; for "tool", the result of the call.
        tool_calls: Calls made by the assistant in this turn.
        tool_call_id: The call whose result this message holds.
        name: Name of the speaker or the tool; templates without names leave it out.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        _check("Message.role", self.role)
        _check("Message.content", self.content)

    @property
    def plain_text(self) -> str:
        r"""The content, with tool calls and results as text, for templates without tools.

        A call is ``<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>``, a result is
        ``<tool_response>\n...\n</tool_response>``.
        """
        if self.role == "tool":
            return f"<tool_response>\n{self.content}\n</tool_response>"
        calls = [
            f'<tool_call>\n{{"name": {json.dumps(call.name, ensure_ascii=False)}, '
            f'"arguments": {call.arguments}}}\n</tool_call>'
            for call in self.tool_calls
        ]
        return "\n".join([self.content, *calls] if self.content else calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A raw string or chat messages to answer. Every model renders it with its own template.

    Attributes:
        text: The raw string.
        messages: The chat messages.
        tools: Tools that the model may call; rendered by chat templates, not by ``plain_text``.
        answer_schema: JSON schema of the answer, as JSON text; rendered likewise.
    """

    text: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    answer_schema: str | None = None

    def __post_init__(self) -> None:
        if (self.text is None) == (not self.messages):
            raise PromptError("a Prompt is either text=... or messages=(...), exactly one of them")
        _check("Prompt.text", self.text, optional=True)
        for message in self.messages:
            if not isinstance(cast("object", message), Message):
                raise PromptError(f"Prompt.messages must hold Messages, not {shown(message)}")

    @property
    def plain_text(self) -> str:
        """The prompt for a model without a chat template.

        A single message is its content; several are lines of ``role: content``.
        """
        if self.text is not None:
            return self.text
        if len(self.messages) == 1:
            return self.messages[0].plain_text
        return "\n".join(f"{m.role}: {m.plain_text}" for m in self.messages)

    @property
    def turns(self) -> tuple[Message, ...]:
        """The prompt for a model with a chat template; a raw string is one user turn."""
        if self.text is None:
            return self.messages
        return (Message(role="user", content=self.text),)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How a chat template writes a tool call: JSON with name and arguments, between two marks.

    Attributes:
        begin: Text before the JSON. Its first word marks a call anywhere in an answer.
        end: Text after the JSON.
        between: Text between two calls.
        name_key: JSON key of the tool's name.
        arguments_key: JSON key of the arguments.
    """

    begin: str = "<tool_call>\n"
    end: str = "\n</tool_call>"
    between: str = "\n"
    name_key: str = "name"
    arguments_key: str = "arguments"

    @property
    def mark(self) -> str:
        """The word that marks a call; empty if there is none."""
        return "".join(self.begin.split()[:1])


@dataclass(frozen=True, slots=True)
class ThoughtFormat:
    """How a thinking model writes its thoughts, which come before the answer.

    Attributes:
        begin: Text before the thoughts.
        end: Text after them.
        begun: Whether the prompt ends with ``begin``.
        without: Text before an answer that has no thoughts; empty for none.
    """

    begin: str = "<think>"
    end: str = "</think>"
    begun: bool = False
    without: str = ""


DEFAULT_CALLS = CallFormat()
"""The format of Hermes and Qwen models, used if a template defines none."""
