"""Convert tools and schemas, build the constraint of an answer, and read calls from its text."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeGuard, cast

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import ToolCall as MessageToolCall
from langchain_core.messages.tool import tool_call as message_tool_call
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableConfig, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from w2s_chains.backend.constrained.models import schema_of_model
from w2s_chains.backend.constrained.tool_calls import (
    text_or_tool_call,
    tool_call,
    tool_call_or_json,
)
from w2s_chains.core.prompts import CallFormat, Tool
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConfigError, did_you_mean

AnyTool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool

_EVERY = {"any": "any", "required": "any", "auto": "auto", "none": "none"}


def tool_dicts(tools: object) -> list[dict[str, Any]]:
    """Convert any tools that LangChain takes to OpenAI's form, without duplicates.

    Raises:
        ConfigError: A tool is not a function (but a search run by a provider, for example), two
            different tools share a name, or a name has another meaning in ``tool_choice``.
    """
    if not isinstance(tools, Sequence):
        raise ConfigError(f"tools are a list, not {tools!r}")
    known: dict[str, dict[str, Any]] = {}
    for tool in cast(Sequence[AnyTool], tools):
        converted = _converted(tool)
        name = converted["function"]["name"]
        if _bare(known.setdefault(name, converted)) != _bare(converted):
            raise ConfigError(f"two tools have the name {name!r}; rename one of them")
        if name in _EVERY:
            raise ConfigError(f"tool_choice {name!r} would not mean the tool {name!r}; rename it")
    return list(known.values())


def _bare(value: Any) -> Any:
    """Drop titles and descriptions, in which two forms of the same tool may differ."""
    if _is_mapping(value):
        told = {"title", "description"}
        return {k: _bare(v) for k, v in value.items() if k not in told or not isinstance(v, str)}
    return [*map(_bare, cast(list[Any], value))] if isinstance(value, list) else value


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _converted(tool: AnyTool) -> dict[str, Any]:
    try:
        converted = convert_to_openai_tool(tool)
        function = converted.get("function", {})
        model: Any = tool
        if isinstance(tool, BaseTool) and tool.args_schema is not None:
            model = tool.tool_call_schema
        # LangChain does not handle recursive models or JSON schemas without properties.
        if _is_model(model):
            function["parameters"] = _without_title(schema_of_model(model))
        elif _is_schema(tool) and tool.keys() - {"title", "description", "type"}:
            function["parameters"] = _without_title(tool)
    except Exception as error:  # LangChain and pydantic raise many types
        raise ConfigError(f"tool {tool!r} cannot be described to a model: {error}") from error
    if converted.get("type") != "function" or "name" not in function:
        raise ConfigError(
            f"tool {converted!r} is not a function that this process can call; give functions, "
            "LangChain tools, pydantic classes or JSON schemas"
        )
    kind = _schema(converted).get("type", "object")
    if kind != "object":
        raise ConfigError(
            f"the arguments of tool {function['name']!r} are of type {kind!r}; make that an object"
        )
    return converted


def _is_model(value: Any) -> TypeGuard[type[BaseModel]]:
    """Return whether ``value`` is a pydantic class of version 2, which has a JSON schema."""
    return isinstance(value, type) and issubclass(value, BaseModel)


def _is_schema(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether ``value`` is a JSON schema and not a provider's form of a tool."""
    return _is_mapping(value) and not value.keys() & {"name", "function", "toolSpec"}


def _without_title(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("title", "description")}


def as_tool(tool: Mapping[str, Any]) -> Tool:
    """Convert a tool to the form that prompts use."""
    function = tool["function"]
    return Tool(
        name=function["name"],
        description=function.get("description", ""),
        parameters=json.dumps(_schema(tool), ensure_ascii=False),
    )


def _schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return tool["function"].get("parameters") or {"type": "object", "properties": {}}


def tool_choice_of(choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    """Normalize LangChain's and OpenAI's forms to "auto", "any", "none" or the name of a tool.

    Raises:
        ConfigError: The choice does not name a tool.
    """
    names = [tool["function"]["name"] for tool in tools]
    if choice is None or choice is False:
        return "auto"
    if choice is True:
        choice = "any"
    if _is_mapping(choice):
        choice = choice.get("function", choice).get("name", choice.get("type"))
    if choice in names:
        return str(choice)
    if not isinstance(choice, str) or choice not in _EVERY:
        raise ConfigError(
            f"tool_choice {choice!r} is none of the tools{did_you_mean(str(choice), names)}; "
            "give auto, any, none, or a name"
        )
    if _EVERY[choice] == "any" and not names:
        raise ConfigError(f"tool_choice is {choice!r}, but there are no tools; bind some")
    return _EVERY[choice]


def response_schema(response_format: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the JSON schema in OpenAI's ``response_format``; None for text.

    Raises:
        ConfigError: ``response_format`` is not one of OpenAI's forms.
    """
    kind = None if response_format is None else response_format.get("type")
    if response_format is None or kind == "text":
        return None
    if kind == "json_object":
        return response_format.get("schema", {"type": "object"})
    schema = response_format.get("json_schema", {}).get("schema")
    if kind != "json_schema" or not _is_mapping(schema):
        raise ConfigError(
            f"response_format {dict(response_format)!r} is unknown; give {{'type': 'json_schema', "
            "'json_schema': {'name': ..., 'schema': {...}}}, {'type': 'json_object'} (its 'schema' "
            "may be left out), or use with_structured_output"
        )
    return schema


def form_of_answer(
    tools: Sequence[Mapping[str, Any]],
    choice: str,
    parallel: bool,
    schema: Mapping[str, Any] | None,
    form: CallFormat,
) -> Constraint | None:
    """Return the constraint for tool calls, JSON of a schema, or both; None for free text."""
    schemas = {tool["function"]["name"]: _schema(tool) for tool in tools}
    if not schemas or choice == "none":
        return None if schema is None else Constraint.json_schema(schema)
    if choice in schemas:
        return tool_call({choice: schemas[choice]}, parallel=parallel, form=form)
    if choice == "any":
        return tool_call(schemas, parallel=parallel, form=form)
    if schema is not None:
        return tool_call_or_json(schemas, schema, parallel=parallel, form=form)
    return text_or_tool_call(schemas, parallel=parallel, form=form)


class CallReader:
    """Separate tool calls from text while an answer is generated.

    Text that may be the beginning of a call is held back, and calls are returned once complete.

    Args:
        form: The format of calls.
        or_json: The answer is calls or JSON, whose strings may contain the mark of a call.
    """

    def __init__(self, form: CallFormat, or_json: bool = False) -> None:
        self._form = form
        self._or_json = or_json
        self._no_call = False
        self._held = ""

    def text(self, new: str) -> str:
        """Add ``new`` and return the text that is certain not to belong to a call."""
        self._held += new
        mark = self._form.mark
        at = self._held.find(mark)
        if at < 0:
            ends = range(min(len(mark) - 1, len(self._held)), 0, -1)
            at = len(self._held) - next((n for n in ends if self._held.endswith(mark[:n])), 0)
        if self._no_call or (self._or_json and self._held[:at].strip()):
            self._no_call, at = True, len(self._held)
        said = self._held[:at].rstrip()  # the line break before a call belongs to the call
        self._held = self._held[len(said) :]
        return said

    def rest(self) -> tuple[str, list[MessageToolCall]]:
        """Return the remaining text and the calls at the end of the answer."""
        if self._no_call or not self._held.lstrip().startswith(self._form.mark):
            return self._held, []
        decoder = json.JSONDecoder()
        calls: list[MessageToolCall] = []
        at = self._held.find("{")
        while at >= 0:
            value, end = decoder.raw_decode(self._held, at)
            name, arguments = value[self._form.name_key], value[self._form.arguments_key]
            calls.append(message_tool_call(name=name, args=arguments, id=uuid.uuid4().hex[:9]))
            at = self._held.find("{", end)
        return "", calls


def response_format_of(schema: Any, shown: bool = True) -> dict[str, Any]:
    """Return OpenAI's ``response_format`` for a pydantic class, a TypedDict or a JSON schema.

    Args:
        schema: The schema of answers; None allows any object, if the schema is not shown.
        shown: Whether the prompt shows the schema ("json_schema") or not ("json_object").

    Raises:
        ConfigError: ``schema`` is none of these.
    """
    if schema is None and not shown:
        return {"type": "json_object"}
    try:
        if _is_model(schema):
            converted = schema_of_model(schema)
        elif _is_schema(schema):
            converted = dict(schema)
        else:
            converted = convert_to_json_schema(cast(Any, schema))
    except Exception as error:  # LangChain and pydantic raise many types
        raise ConfigError(f"{schema!r} is no schema of an answer: {error}") from error
    if not shown:
        return {"type": "json_object", "schema": converted}
    name = str(converted.get("title", getattr(schema, "__name__", "answer")))
    return {"type": "json_schema", "json_schema": {"name": name, "schema": converted}}


def parser_of(schema: Any) -> Runnable[Any, Any]:
    """Return a parser of JSON to a pydantic class (of version 1 or 2) or a dictionary."""
    if is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=schema)
    return JsonOutputParser()


class OrCalls(Runnable[Any, Any]):
    """A parser of answers that may call tools instead: those are parsed to None."""

    def __init__(self, parser: Runnable[Any, Any]) -> None:
        self._parser = parser

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return None if input.tool_calls else self._parser.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return None if input.tool_calls else await self._parser.ainvoke(input, config, **kwargs)

    def transform(
        self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        seen: list[Any] = []
        told = (seen.append(chunk) or chunk for chunk in input)
        try:
            yield from self._parser.transform(told, config, **kwargs)
        except OutputParserException:
            if not any(chunk.tool_call_chunks for chunk in seen):
                raise

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        seen: list[Any] = []

        async def told() -> AsyncIterator[Any]:
            async for chunk in input:
                seen.append(chunk)
                yield chunk

        try:
            async for found in self._parser.atransform(told(), config, **kwargs):
                yield found
        except OutputParserException:
            if not any(chunk.tool_call_chunks for chunk in seen):
                raise


def with_raw(model: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Return raw answer, parsed answer and parsing error, like LangChain's ``include_raw``."""
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")
