"""``ChatTemplate``: render a conversation, even where the template lacks tools or some roles."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from w2s_chains.backend.text.bounded_chat import apply_chat_template
from w2s_chains.core.prompts import DEFAULT_CALLS, CallFormat, Message, Tool, ToolCall
from w2s_chains.errors import PromptError, UnsupportedModelError

_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""
"""The system message that describes tools to Hermes and Qwen models; they answer in the format
``DEFAULT_CALLS``."""

_SCHEMA = """\
Answer with JSON that is valid under this JSON schema, and with nothing else:
{schema}"""

_MARK = "w2s-probe"
_PROBE = Tool(name=_MARK, description="x")
_USER = Message(role="user", content="hi")
_ANSWER = Message(role="assistant", content="hello")
_CALL = Message(
    role="assistant",
    content="",
    # Mistral's templates demand ids of nine characters.
    tool_calls=(ToolCall(name=_MARK, arguments='{"x": "w2s-argument"}', id="w2sprobe1"),),
)
_RESULT = Message(role="tool", content="w2s-result", tool_call_id="w2sprobe1", name=_MARK)


class ChatTemplate:
    """A tokenizer's chat template.

    We find out what it supports by rendering short probe conversations, and adapt the messages:

    * No tools, or calls that a grammar cannot follow (with special tokens, without a mark, or not
      as JSON): tools go into the system message, calls into the assistant's turns, and results
      become user turns (``Message.plain_text``).
    * No system messages: their text opens the next user turn.
    * User and assistant must alternate: neighbouring turns of one role are merged.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def call_format(self) -> CallFormat:
        """How the model writes a tool call."""
        return self._native_calls if self._knows_tools and self._native_calls else DEFAULT_CALLS

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Return the token ids up to the answer; control tokens in the messages are plain text.

        Raises:
            PromptError: The template refuses the conversation.
        """
        return self._apply(messages, tools, tokenize=True, sanitize_control_tokens=True)[
            "input_ids"
        ]

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """Return the text up to the answer.

        Raises:
            PromptError: The template refuses the conversation.
        """
        return self._apply(messages, tools, tokenize=False)

    def after_answer(self, mark: str = "answer") -> str:
        """Return the text that the template writes after an answer.

        Raises:
            UnsupportedModelError: The template cannot even show a question and an answer.
        """
        turns = [_USER, Message(role="assistant", content=mark)]
        try:
            rendered: str = apply_chat_template(
                self._tokenizer, [_as_dict(turn) for turn in turns], tokenize=False
            )
        except Exception as error:  # templates raise exceptions of any type
            raise UnsupportedModelError(
                f"the chat template of {self._tokenizer.name_or_path!r} is broken "
                f"({type(error).__name__}: {error}); mend it, or set chat to false"
            ) from error
        return rendered.rpartition(mark)[2]

    def _apply(self, messages: Sequence[Message], tools: Sequence[Tool], **how: Any) -> Any:
        adapted = self._adapted(messages, tools)
        try:
            return self._native(adapted, tools if self._knows_tools else (), **how)
        except Exception as error:  # templates raise exceptions of any type
            raise PromptError(
                f"the chat template of {self._tokenizer.name_or_path!r} refuses the conversation "
                f"({', '.join(m.role for m in messages)}): {error}; change the messages, or set "
                "chat to false"
            ) from error

    def _native(self, messages: Sequence[Message], tools: Sequence[Tool] = (), **how: Any) -> Any:
        return apply_chat_template(
            self._tokenizer,
            [_as_dict(turn) for turn in messages],
            tools=[_tool_as_dict(tool) for tool in tools] or None,
            add_generation_prompt=True,
            **how,
        )

    # What the template supports.

    def _shows(
        self, expected: Iterable[str], *messages: Message, tools: Sequence[Tool] = ()
    ) -> bool:
        try:
            text = self._native(messages, tools, tokenize=False)
        except Exception:  # templates refuse by raising
            return False
        return all(part in text for part in expected)

    @functools.cached_property
    def _knows_tools(self) -> bool:
        return (
            self._shows([_MARK], _USER, tools=[_PROBE])
            and self._shows(
                [_MARK, "w2s-argument", "w2s-result"], _USER, _CALL, _RESULT, tools=[_PROBE]
            )
            and self._native_calls is not None
        )

    @functools.cached_property
    def _native_calls(self) -> CallFormat | None:
        """How the template writes a call, if it writes JSON after a mark of plain text."""
        answer = Message(role="assistant", content=_MARK)
        try:
            plain, called = (
                apply_chat_template(self._tokenizer, [_as_dict(m) for m in turns], tokenize=False)
                for turns in ((_USER, answer), (_USER, _CALL))
            )
        except Exception:  # templates refuse by raising
            return None
        before, _, after = plain.rpartition(_MARK)
        inner = called.removeprefix(before).removesuffix(after)
        begin, end = inner.find("{"), inner.rfind("}") + 1
        try:
            call = json.loads(inner[begin:end])
        except ValueError:
            return None
        keys = {json.dumps(value): key for key, value in call.items()}
        name, arguments = (
            keys.get(value) for value in (f'"{_MARK}"', _CALL.tool_calls[0].arguments)
        )
        marks = inner[:begin] + inner[end:]
        known = self._tokenizer.added_tokens_decoder.values()
        special = any(token.special and token.content in marks for token in known)
        unmarked = not inner[:begin].strip()
        if name is None or arguments is None or len(call) > 2 or special or unmarked:
            return None
        return CallFormat(
            begin=inner[:begin].lstrip(),
            end=inner[end:].rstrip(),
            name_key=name,
            arguments_key=arguments,
        )

    @functools.cached_property
    def _takes_system(self) -> bool:
        return self._shows([_MARK], Message(role="system", content=_MARK), _USER)

    @functools.cached_property
    def _takes_late_system(self) -> bool:
        late = Message(role="system", content=_MARK)
        return self._shows([_MARK], _USER, _ANSWER, late, _USER)

    @functools.cached_property
    def _takes_repeats(self) -> bool:
        return self._shows([], _USER, _USER) and self._shows([], _USER, _ANSWER, _ANSWER, _USER)

    # How a conversation is adapted.

    def _adapted(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        turns = list(messages)
        if not self._knows_tools:
            turns = [_written_out(turn) for turn in turns]
            if tools:
                described = _TOOLS.format(
                    tools="\n".join(json.dumps(_tool_as_dict(t), ensure_ascii=False) for t in tools)
                )
                at = 1 if turns[0].role == "system" else 0
                turns.insert(at, Message(role="system", content=described))
        turns = self._without_refused_system(_merged(turns, ["system"]))
        return turns if self._takes_repeats else _merged(turns, ["user", "assistant"])

    def _without_refused_system(self, turns: Sequence[Message]) -> list[Message]:
        kept: list[Message] = []
        waiting: Message | None = None
        for at, turn in enumerate(turns):
            if turn.role == "system":
                if self._takes_late_system if at else self._takes_system:
                    kept.append(turn)
                else:
                    waiting = replace(turn, role="user")
            elif waiting is not None and turn.role == "user":
                kept += _merged([waiting, turn], ["user"])
                waiting = None
            else:
                kept.append(turn)
        return kept if waiting is None else [*kept, waiting]


def _merged(turns: Sequence[Message], roles: Collection[str]) -> list[Message]:
    """Merge neighbouring turns of one role, for each of these roles."""
    merged: list[Message] = []
    for turn in turns:
        if merged and turn.role in roles and merged[-1].role == turn.role:
            before = merged.pop()
            turn = replace(
                before,
                content="\n\n".join(filter(None, [before.content, turn.content])),
                tool_calls=(*before.tool_calls, *turn.tool_calls),
            )
        merged.append(turn)
    return merged


def _written_out(turn: Message) -> Message:
    role = "user" if turn.role == "tool" else turn.role
    name = None if turn.role == "tool" else turn.name
    return Message(role=role, content=turn.plain_text, name=name)


def _as_dict(turn: Message) -> dict[str, Any]:
    values: dict[str, Any] = {"role": turn.role, "content": turn.content}
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


def _tool_as_dict(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": json.loads(tool.parameters),
    }
    return {"type": "function", "function": function}


def schema_turn(schema: str) -> Message:
    """Make a system message that asks the model to answer in a JSON schema."""
    return Message(role="system", content=_SCHEMA.format(schema=schema))
