"""``ChatTemplate``: render a conversation, even where the template lacks tools or some roles."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from w2s_chains.backend.chat.bounded import apply_chat_template, names_in
from w2s_chains.backend.chat.prompt_template import TAKEN
from w2s_chains.backend.chat.thoughts import thoughts_in
from w2s_chains.backend.chat.turns import as_dict, first_lost, merged, tool_as_dict, written_out
from w2s_chains.core.prompts import (
    DEFAULT_CALLS,
    CallFormat,
    Message,
    ThoughtFormat,
    Tool,
    ToolCall,
)
from w2s_chains.errors import (
    ConfigError,
    PromptError,
    UnsupportedModelError,
    did_you_mean,
    shown,
)

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

_MARK = "w2s-probe"
_PROBE = Tool(name=_MARK, description="x")
_TURNS = ("user", "assistant")
_SYSTEM = Message(role="system", content="x")
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
    * No plain text, only content parts, as templates of models that see images: texts become parts.
    """

    def __init__(self, tokenizer: Any, variables: Mapping[str, Any] | None = None) -> None:
        """Take a tokenizer that has a chat template.

        Args:
            tokenizer: A transformers tokenizer.
            variables: Variables of its template, such as ``enable_thinking``.

        Raises:
            ConfigError: The template has no such variable.
        """
        self._tokenizer = tokenizer
        self._variables = dict(variables or {})
        known = names_in(self._source)
        if wrong := sorted(self._variables.keys() - known):
            raise ConfigError(
                f"the chat template of {tokenizer.name_or_path!r} does not read {wrong[0]!r} of "
                f"chat_template_kwargs{did_you_mean(wrong[0], known - TAKEN)}; leave it out"
            )

    @property
    def _source(self) -> str:
        """The template; several, one after another, if there is one for tools."""
        own: str | dict[str, str] = self._tokenizer.chat_template
        return own if isinstance(own, str) else "".join(own.values())

    @functools.cached_property
    def _special(self) -> frozenset[str]:
        """The special tokens, which are left out where tokens become text."""
        known = self._tokenizer.added_tokens_decoder.values()
        return frozenset(token.content for token in known if token.special)

    @property
    def call_format(self) -> CallFormat:
        """How the model writes a tool call."""
        return self._native_calls if self._knows_tools and self._native_calls else DEFAULT_CALLS

    @functools.cached_property
    def thoughts(self) -> ThoughtFormat | None:
        """How the model writes thoughts; None if the template does not know of any."""
        return thoughts_in(self._source)

    @functools.cached_property
    def untold(self) -> frozenset[int]:
        """Special tokens that are left out of a text, if others mark thoughts in it; else none."""
        form = self.thoughts
        marks = "" if form is None else form.begin + form.end + form.without
        if not any(token in marks for token in self._special):
            return frozenset()
        known = self._tokenizer.added_tokens_decoder.items()
        return frozenset(i for i, one in known if one.special and one.content not in marks)

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
        return self._apply(messages, tools)

    def check_opens(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> None:
        """Check that the text ends where an answer begins.

        Some templates open no turn for it: they write an end after the assistant's turn.

        Raises:
            PromptError: The last turn is no question, and no answer begins after it.
        """
        last = self._adapted(messages, tools)[-1].role
        if last not in ("user", "tool") and self._apply(messages, tools) == self._apply(
            messages, tools, add_generation_prompt=False
        ):
            raise self._refused(
                messages, f"no answer follows the {last}'s turn; end with a user's message"
            )

    def after_answer(self, mark: str = "answer") -> str:
        """Return the text that the template writes after an answer.

        Raises:
            UnsupportedModelError: The template cannot even show a question and an answer.
        """
        turns = [*self._lead, _USER, Message(role="assistant", content=mark)]
        try:
            rendered: str = self._native(turns, add_generation_prompt=False)
        except Exception as error:  # templates raise exceptions of any type
            raise UnsupportedModelError(
                f"the chat template of {self._tokenizer.name_or_path!r} is broken "
                f"({type(error).__name__}: {error}); mend it, or set chat to false"
            ) from error
        if mark not in rendered:
            raise UnsupportedModelError(
                f"the chat template of {self._tokenizer.name_or_path!r} does not show what the "
                "assistant said; mend it, or set chat to false"
            )
        return rendered.rpartition(mark)[2]

    def _apply(self, messages: Sequence[Message], tools: Sequence[Tool], **how: Any) -> Any:
        adapted = self._adapted(messages, tools)
        known = tools if self._knows_tools else ()
        try:
            text: str = self._native(adapted, known)
            found = self._native(adapted, known, **how) if how else text
        except Exception as error:  # templates raise exceptions of any type
            remedy = "change the messages"
            if self._lead and messages[0].role != "system":
                remedy = "give a system message, or set system"
            raise self._refused(messages, f"{error}; {remedy}") from error
        if lost := first_lost(text, adapted):
            remedy = "add a user's message" if messages[-1].role == "system" else "leave it out"
            raise self._refused(
                messages, f"it leaves out the {lost.role}'s {shown(lost.content)}; {remedy}"
            )
        return found

    def _refused(self, messages: Sequence[Message], why: str) -> PromptError:
        return PromptError(
            f"the chat template of {self._tokenizer.name_or_path!r} refuses the conversation "
            f"({', '.join(m.role for m in messages)}): {why}, or set chat to false"
        )

    def _native(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        parts: bool | None = None,
        add_generation_prompt: bool = True,
        **how: Any,
    ) -> Any:
        parts = self._in_parts if parts is None else parts
        return apply_chat_template(
            self._tokenizer,
            [as_dict(turn, parts) for turn in messages],
            tools=[tool_as_dict(tool) for tool in tools] or None,
            add_generation_prompt=add_generation_prompt,
            variables=self._variables,
            **(how or {"tokenize": False}),
        )

    # What the template supports.

    @functools.cached_property
    def _form(self) -> tuple[tuple[Message, ...], bool]:
        """What goes before a user's turn, and whether contents are lists of parts."""
        forms = itertools.product(((), (_SYSTEM,)), (False, True))
        return next((form for form in forms if self._reads(*form)), ((), False))

    def _reads(self, lead: Sequence[Message], parts: bool) -> bool:
        asked, said = (Message(role=role, content=f"{_MARK}-{role}") for role in _TURNS)
        try:
            text = self._native([*lead, asked, said, _USER], parts=parts)
        except Exception:  # templates refuse by raising
            return False
        return asked.content in text and said.content in text

    @property
    def _lead(self) -> tuple[Message, ...]:
        """A system message, if the template demands one."""
        return self._form[0]

    @property
    def _in_parts(self) -> bool:
        return self._form[1]

    def _shows(
        self, expected: Iterable[str], *messages: Message, tools: Sequence[Tool] = ()
    ) -> bool:
        lead = () if messages[0].role == "system" else self._lead
        try:
            text = self._native([*lead, *messages], tools)
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
                self._native([*self._lead, _USER, turn], add_generation_prompt=False)
                for turn in (answer, _CALL)
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
        special = any(token in marks for token in self._special)
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
            turns = [written_out(turn) for turn in turns]
            if tools:
                described = _TOOLS.format(
                    tools="\n".join(json.dumps(tool_as_dict(t), ensure_ascii=False) for t in tools)
                )
                at = 1 if turns[0].role == "system" else 0
                turns.insert(at, Message(role="system", content=described))
        turns = self._without_refused_system(merged(turns, ["system"]))
        return turns if self._takes_repeats else merged(turns, ["user", "assistant"])

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
                kept += merged([waiting, turn], ["user"])
                waiting = None
            else:
                kept.append(turn)
        return kept if waiting is None else [*kept, waiting]
