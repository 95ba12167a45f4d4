"""``ToolCalling``: tools and structured output for a guided chat model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages import ToolCall as MessageToolCall
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BeforeValidator, Field, model_validator

from w2s_chains.backend.chat.thoughts import ThoughtReader
from w2s_chains.core.parts import PromptTokenizer, Proposer
from w2s_chains.core.prompts import CallFormat, Message, Prompt
from w2s_chains.core.sampling import Constraint
from w2s_chains.engine.job import check_constraint
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.base import GuidedModel
from w2s_chains.langchain.messages import to_prompt
from w2s_chains.langchain.tools import (
    AnyTool,
    CallReader,
    OrCalls,
    as_tool,
    form_of_answer,
    parser_of,
    response_format_of,
    response_schema,
    tool_choice_of,
    tool_dicts,
    with_raw,
)


class AnswerReader:
    """Tell the thoughts, the text and the tool calls of an answer apart while it is generated."""

    def __init__(self, thoughts: ThoughtReader | None, calls: CallReader | None) -> None:
        self._thoughts = thoughts
        self._calls = calls

    def text(self, new: str) -> tuple[str, str]:
        """Add ``new``; return the thoughts and the text that are certain to be just that."""
        thought, said = ("", new) if self._thoughts is None else self._thoughts.text(new)
        return thought, said if self._calls is None else self._calls.text(said)

    def rest(self) -> tuple[str, str, list[MessageToolCall]]:
        """Return the remaining thoughts and text, and the calls at the end of the answer."""
        thought, said = ("", "") if self._thoughts is None else self._thoughts.rest()
        if self._calls is None:
            return thought, said, []
        said = self._calls.text(said)
        rest, calls = self._calls.rest()
        return thought, said + rest, calls

    def whole(self, text: str) -> tuple[str, str, list[MessageToolCall]]:
        """Return the thoughts, the text and the calls of a whole answer."""
        thought, said = self.text(text)
        more, rest, calls = self.rest()
        return thought + more, said + rest, calls


class ToolCalling(GuidedModel):
    """A guided model whose answers can be constrained to tool calls or to a schema.

    Attributes:
        tools: The tools, in OpenAI's form; ``bind_tools`` also takes LangChain tools.
        tool_choice: "auto" (text or calls), "any" (a call), "none" (no call), or a tool's name.
        parallel_tool_calls: Whether one answer may make several calls; weak models repeat them.
        response_format: OpenAI's form of an answer; see ``with_structured_output``.
    """

    model_config = GuidedModel.model_config
    call_fields: ClassVar[frozenset[str]] = GuidedModel.call_fields | {
        "tools", "tool_choice", "parallel_tool_calls", "response_format",
    }  # fmt: skip

    tools: Annotated[list[dict[str, Any]], BeforeValidator(tool_dicts)] = Field(
        default_factory=list[dict[str, Any]]
    )
    tool_choice: Any = "auto"
    parallel_tool_calls: bool = False
    response_format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_choice(self) -> Self:
        # Bypass validate_assignment, which would call this validator again.
        object.__setattr__(self, "tool_choice", tool_choice_of(self.tool_choice, self.tools))
        response_schema(self.response_format)
        return self

    def bind_tools(
        self,
        tools: Sequence[AnyTool],
        *,
        tool_choice: Any = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return this model with tools to call.

        Every call is well-formed and its arguments are valid, because sampling is constrained;
        ``strict`` changes nothing. The guides choose among valid continuations.

        Args:
            tools: Functions, LangChain tools, pydantic classes, TypedDicts or JSON schemas.
            tool_choice: "auto" (text or calls; the default), "any" or "required" or True (a call),
                "none" (no call), or the name of the tool to call.
            strict: Accepted for compatibility with LangChain.
            **kwargs: Overrides for every call.

        Raises:
            ConfigError: A tool is not a function, ``tool_choice`` names no tool, or the proposer
                cannot be constrained or has no chat template to show the tools.
            ConstraintError: A schema cannot be met within ``max_tokens``.
        """
        known = {name: value for name, value in kwargs.items() if name in self.call_fields}
        model = self._overridden(None, {**known, "tools": tools, "tool_choice": tool_choice})
        model.check_form()
        return self.bind(**{**kwargs, "tools": model.tools, "tool_choice": model.tool_choice})

    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return this model with answers that are objects.

        Args:
            schema: A pydantic class (answers are its instances), a TypedDict or a JSON schema
                (answers are dictionaries).
            include_raw: Return a dictionary of the message ("raw"), the object ("parsed") and the
                parsing error, if any ("parsing_error").
            method: "json_schema" adds the schema to the prompt and answers with JSON only;
                "function_calling" calls a tool with that schema; "json_mode" is "json_schema"
                without the schema in the prompt, for prompts that describe the form themselves.
            strict: Accepted for compatibility with LangChain; the schema always holds.
            **kwargs: Overrides for every call. With ``tools`` an answer may be a call instead,
                which is found in the message ("raw"), while "parsed" is None.

        Raises:
            ConfigError: The proposer cannot be constrained, or ``method`` is unknown.
            ConstraintError: The schema cannot be met within ``max_tokens``.
        """
        told = {"kwargs": {"method": method}, "schema": schema}
        if method == "function_calling":
            if kwargs.keys() & {"tools", "tool_choice"}:
                raise ConfigError(
                    "function_calling calls the schema and nothing else; leave out tools and "
                    "tool_choice, or use method json_schema"
                )
            [tool] = tool_dicts([schema])
            name = tool["function"]["name"]
            model = self.bind_tools(
                [schema], tool_choice=name, parallel_tool_calls=False,
                ls_structured_output_format=told, **kwargs,
            )  # fmt: skip
            parser: Runnable[Any, Any] = (
                PydanticToolsParser(tools=[schema], first_tool_only=True)
                if is_basemodel_subclass(schema)
                else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
            )
        elif method in ("json_schema", "json_mode"):
            form = response_format_of(schema, shown=method == "json_schema")
            # Without tools, since the model could call one instead of answering.
            bound: dict[str, Any] = {
                "tools": [],
                "tool_choice": None,
                **kwargs,
                "response_format": form,
            }
            self._overridden(None, bound).check_form()
            model = self.bind(ls_structured_output_format=told, **bound)
            parser = parser_of(schema)
            if bound["tools"]:
                parser = OrCalls(parser)
        else:
            raise ConfigError(
                f"unknown method {method!r}; choose json_schema, function_calling or json_mode"
            )
        return with_raw(model, parser) if include_raw else model | parser

    def _constraint(self) -> Constraint | None:
        form = form_of_answer(
            self.tools,
            self.tool_choice,
            self.parallel_tool_calls,
            response_schema(self.response_format),
            self._call_format,
        )
        if form is not None and self.constraint is not None:
            raise ConfigError(
                "constraint and tools or response_format ask for two forms of one answer; leave "
                "one of them out"
            )
        return self.constraint if form is None else form

    @property
    def _call_format(self) -> CallFormat:
        return Proposer.of(self.proposer).call_format

    def check_form(self) -> None:
        """Refuse tools or a form of answers that would fail in every call; see ``bind_tools``."""
        if (constraint := self._constraint()) is not None:
            check_constraint(constraint, self.proposer, self._sampling())
        tokenizer: PromptTokenizer | None = Proposer.of(self.proposer).tokenizer
        if self.tools and tokenizer is not None and tokenizer.chat is None:
            raise ConfigError(
                f"the proposer {self.model_name!r} reads no chat template that could tell it of "
                "tools; set chat to true for it, or use with_structured_output"
            )

    # Prompts, and the readers of answers.

    def _prompt_of(self, value: PromptValue) -> Prompt:
        return self._prompt(value.to_messages())

    def _prompt(self, messages: Sequence[BaseMessage]) -> Prompt:
        return self.as_prompt(to_prompt(messages).messages)

    def as_prompt(self, messages: Sequence[Message]) -> Prompt:
        """Return a conversation as the models read it, with the tools and the answer's schema."""
        told = None
        if self.response_format is not None and self.response_format["type"] == "json_schema":
            told = json.dumps(response_schema(self.response_format), ensure_ascii=False)
        tools = self.tools if self._calls else []
        return Prompt(
            messages=tuple(messages), tools=tuple(map(as_tool, tools)), answer_schema=told
        )

    @property
    def _calls(self) -> bool:
        """Whether answers may call tools."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def _thinks(self) -> bool:
        """Whether the proposer's chat template knows of thoughts."""
        chat = getattr(Proposer.of(self.proposer).tokenizer, "chat", None)
        return getattr(chat, "thoughts", None) is not None

    def answer_reader(self, prompt: Prompt) -> AnswerReader:
        """Return what tells thoughts, text and calls of one answer to ``prompt`` apart."""
        formed = response_schema(self.response_format) is not None
        free = self.constraint is None and not formed and self.tool_choice in ("auto", "none")
        form = Proposer.of(self.proposer).thoughts(prompt) if free else None
        return AnswerReader(
            None if form is None else ThoughtReader(form),
            CallReader(self._call_format, or_json=formed) if self._calls else None,
        )

    @property
    def _identifying_params(self) -> dict[str, Any]:
        own = {
            name: getattr(self, name)
            for name in ("tools", "tool_choice", "parallel_tool_calls", "response_format")
        }
        return {**super()._identifying_params, **own}
