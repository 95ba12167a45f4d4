"""The bodies of requests, as OpenAI's clients send them.

A field that means something else here than at OpenAI, or nothing at all, is refused. Fields that
clients always send are taken where they say "off".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError, from_json

from w2s_chains.core.configs import Checked, config_errors
from w2s_chains.core.prompts import Message, ToolCall
from w2s_chains.core.slots import is_mapping
from w2s_chains.errors import brief, shown
from w2s_chains.langchain.tools import response_schema, tool_choice_of, tool_dicts
from w2s_chains.serving.refusals import RefusedError

MOST_STOPS = 16
"""The most stop strings of a request."""


def _only(*values: object) -> AfterValidator:
    """Return the check of a field of which only these values mean what this server does."""

    def check(value: object) -> object:
        if any(type(value) is type(one) and value == one for one in values):
            return value
        raise PydanticCustomError("unsupported", "this server does not support it; leave it out")

    return AfterValidator(check)


_Null = Annotated[Any, _only(None)]
_Off = Annotated[Any, _only(None, False)]
_NoPenalty = Annotated[Any, _only(None, 0, 0.0)]
_Flag = bool | None
_Text = str | None


class StreamOptions(Checked):
    """Options of a stream.

    Attributes:
        include_usage: Whether a last chunk tells the usage.
    """

    include_usage: _Flag = None
    include_obfuscation: _Off = None


class Options(Checked):
    """What OpenAI has no field for.

    Attributes:
        strategy: The search: a name that the config lists, a type, or a mapping with a ``type``.
        steering: Weight of the guides at every token, for strategies that have it.
        trace: Whether to return the tree of the search.
    """

    strategy: str | dict[str, Any] | None = None
    steering: float | None = None
    trace: _Flag = None


class AnyRequest(Checked):
    """What both kinds of requests have. What is left out is as the config says."""

    model: str
    stream: _Flag = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    w2s: Options | None = None

    # As vLLM and others name them.
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    # Who asks, and what for: they change no answer.
    user: _Text = None
    safety_identifier: _Text = None
    prompt_cache_key: _Text = None
    prompt_cache_retention: _Text = None
    metadata: dict[str, str] | None = None
    service_tier: Annotated[Any, _only(None, "auto", "default")] = None

    # What this server lacks.
    frequency_penalty: _NoPenalty = None
    presence_penalty: _NoPenalty = None
    logit_bias: Annotated[Any, _only(None, {})] = None

    @field_validator("stream_options")
    @classmethod
    def _check_stream(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and not info.data.get("stream"):
            raise ValueError("these are for streams; set stream, or leave them out")
        return value

    @property
    def options(self) -> Options:
        """What OpenAI has no field for."""
        return self.w2s or Options()

    @property
    def tells_usage(self) -> bool:
        """Whether the last chunk of a stream tells the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields of the model that this request sets."""
        names = (
            *("n", "seed", "stop", "temperature", "top_p", "max_tokens"),
            *("top_k", "min_p", "repetition_penalty"),
        )
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class CompletionRequest(AnyRequest):
    """The body of ``/v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    echo: _Off = None
    logprobs: _Null = None
    suffix: Annotated[Any, _only(None, "")] = None
    best_of: int | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _refuse_ids(cls, value: Any) -> Any:
        listed = cast("list[object]", value) if isinstance(value, list) else ()
        if any(isinstance(one, int | list) for one in listed):
            raise ValueError("token ids are not supported; give text, or a list of texts")
        return cast("Any", value)

    @field_validator("best_of")
    @classmethod
    def _check_best_of(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value not in (None, info.data.get("n") or 1):
            raise ValueError(
                "this server does not choose by logprobs; to choose by the guides, set "
                "w2s: {strategy: {type: best_of_n, n: ...}}"
            )
        return value

    @property
    def prompts(self) -> list[str]:
        """The prompts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class ContentPart(Checked):
    """A part of a message."""

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""


class CalledFunction(Checked):
    """The function of a call."""

    name: str
    arguments: str

    @model_validator(mode="after")
    def _check_arguments(self) -> Self:
        try:
            good = isinstance(json.loads(self.arguments), dict)
        except ValueError:
            good = False
        if not good:
            raise ValueError(f"arguments {shown(self.arguments)} are no JSON object")
        return self


class MadeCall(Checked):
    """A call in an earlier answer."""

    id: _Text = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


_ROLES = {"developer": "system"}


class Turn(Checked):
    """A message of a conversation, with what this server's own answers have."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: _Text = None
    tool_calls: list[MadeCall] | None = None
    tool_call_id: _Text = None
    refusal: _Text = None
    reasoning_content: _Text = None
    annotations: Annotated[Any, _only(None, [])] = None
    audio: _Null = None
    function_call: _Null = None

    @field_validator("content", mode="before")
    @classmethod
    def _check_parts(cls, value: Any) -> Any:
        for part in cast("list[Any]", value) if isinstance(value, list) else ():
            kind = part.get("type") if is_mapping(part) else None
            if kind not in ("text", "refusal"):
                raise ValueError(f"a part is of type {shown(kind)}, but models here read text only")
        return cast("Any", value)

    @model_validator(mode="after")
    def _check_turn(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of role {self.role!r} needs content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("only an assistant calls tools")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a message of role 'tool', and no other, has a tool_call_id")
        return self

    @property
    def message(self) -> Message:
        """The message as models read it."""
        content = self.content or self.refusal or ""
        if not isinstance(content, str):
            content = "".join(part.text or part.refusal for part in content)
        calls = [
            ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
            for call in self.tool_calls or ()
        ]
        return Message(
            role=_ROLES.get(self.role, self.role),
            content=content,
            tool_calls=tuple(calls),
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


class ChatRequest(AnyRequest):
    """The body of ``/v1/chat/completions``."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: _Flag = None
    response_format: dict[str, Any] | None = None

    store: _Off = None
    logprobs: _Off = None
    top_logprobs: Annotated[Any, _only(None, 0)] = None
    modalities: Annotated[Any, _only(None, ["text"])] = None
    verbosity: Annotated[Any, _only(None, "medium")] = None
    audio: _Null = None
    functions: _Null = None
    function_call: _Null = None
    prediction: _Null = None
    reasoning_effort: _Null = None
    web_search_options: _Null = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _check_names(cls, value: int | None, info: ValidationInfo) -> int | None:
        if None not in (value, old := info.data.get("max_tokens")) and value != old:
            raise ValueError("max_tokens is its old name, and says another number; give one")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _check_choice(cls, value: Any, info: ValidationInfo) -> Any:
        tool_choice_of(value, tool_dicts(info.data.get("tools") or []))
        return value

    @field_validator("response_format")
    @classmethod
    def _check_form(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        response_schema(value)
        return value

    @property
    def overrides(self) -> dict[str, Any]:
        """The fields of the model that this request sets."""
        found = super().overrides
        if self.max_completion_tokens is not None:
            found["max_tokens"] = self.max_completion_tokens
        names = ("tools", "tool_choice", "parallel_tool_calls", "response_format")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        return found | given


R = TypeVar("R", bound=AnyRequest)


def read_json(body: bytes) -> dict[str, Any]:
    """Read the body of a request.

    Raises:
        RefusedError: It is no JSON object in UTF-8, or too deeply nested.
    """
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(400, f"the body is no JSON: {brief(error)}", "invalid_json") from error
    if not isinstance(values, dict):
        raise RefusedError(400, "the body is no JSON object; send {...}", "invalid_json")
    return cast("dict[str, Any]", values)


def read_request(kind: type[R], values: Mapping[str, Any]) -> R:
    """Check the fields of a request.

    Raises:
        ConfigError: One is unknown, not supported, or of the wrong type; with all such faults.
    """
    with config_errors(kind, values):
        return kind.model_validate(values)
