"""``ChatW2S``: guided generation as a LangChain chat model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Unpack, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import (
    BaseChatModel,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    LLMResult,
)
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig

from w2s_chains.config.arguments import ChatArguments, ProposerLike
from w2s_chains.config.sections import ModelType
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.events import Committed, Event, Finished
from w2s_chains.core.parts import Proposer
from w2s_chains.core.prompts import Prompt
from w2s_chains.errors import PromptError
from w2s_chains.langchain.generation import (
    ClosingInLoop,
    answer_info,
    by_prompt,
    thoughts_of,
    usage_of,
)
from w2s_chains.langchain.messages import check_blocks
from w2s_chains.langchain.structured_output import AnswerReader, ToolCalling
from w2s_chains.langchain.tools import AnyTool
from w2s_chains.langchain.tracing import current_runs, known_runs, streamed_run

_MEDIA = ("image", "image_url", "pdf", "audio", "video")
_NOT_TEXT = (
    *(f"{kind}_inputs" for kind in _MEDIA),
    *("image_tool_message", "pdf_tool_message", "attachment"),
    *("image_outputs", "audio_outputs", "video_outputs"),
)


class ChatW2S(ToolCalling, BaseChatModel):
    """A large frozen model, steered by a small tuned and a small untuned one, for conversations.

    Examples:
        >>> chat = ChatW2S(
        ...     proposer=Model("embedded:smollm2-135m-instruct"),
        ...     guides=Guides(
        ...         tuned="embedded:reviews-tuned", untuned="embedded:reviews-untuned"),
        ...     strategy=ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
        ...     max_tokens=50, temperature=0.7, seed=0)
        >>> chat.invoke([("system", "You review films."), ("human", "How was Alien?")]).content

    Every model reads the conversation through its own chat template. For models described by a
    name or a config, ``chat`` defaults to "auto": a model without a template reads plain text. What
    a thinking model writes between the marks of its thoughts (``<think>``) is no content, but
    ``additional_kwargs["reasoning_content"]``, a block of type "reasoning" in ``content_blocks``.
    Every field from ``strategy`` to ``progress`` can be overridden in a single call:
    ``chat.invoke(messages, strategy=Sampling(), max_tokens=20)``. Fields are those of
    ``GuidedModel``, those of ``ToolCalling`` (tools and structured output) and:

    Attributes:
        streaming: True makes ``invoke`` use ``stream``, so that callbacks see the text as it is
            committed; False turns streaming off.
    """

    model_config = ToolCalling.model_config
    config_type: ClassVar[ModelType] = "chat"

    streaming: bool | None = None

    def __init__(
        self, proposer: ProposerLike | None = None, **fields: Unpack[ChatArguments]
    ) -> None:
        """Load the models that are named, and put the parts together; see the attributes.

        Raises:
            W2SError: As ``W2SLLM`` raises it.
        """
        given: dict[str, Any] = {"proposer": proposer, **fields}
        super().__init__(**given)

    # Results.

    def _result(self, found: Sequence[tuple[int, Event]], prompt: Prompt) -> ChatResult:
        [answers] = by_prompt(found, self.n)
        generations: list[ChatGeneration] = []
        for answer in answers:
            thought, text, calls = self.answer_reader(prompt).whole(answer.text)
            message = AIMessage(
                content=text,
                additional_kwargs=thoughts_of(thought),
                tool_calls=calls,
                usage_metadata=usage_of(answer),
            )
            info = self._info(answer, called=bool(calls))
            generations.append(ChatGeneration(message=message, generation_info=info))
        return ChatResult(generations=generations)

    def _chunks(
        self, event: Committed | Finished, reader: AnswerReader
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the chunks of a stream for an event; none while a tool call is incomplete."""
        if isinstance(event, Committed):
            thought, text = reader.text(event.text)
            if thought or text:
                told = AIMessageChunk(content=text, additional_kwargs=thoughts_of(thought))
                yield ChatGenerationChunk(message=told)
            return
        thought, text, calls = reader.rest()
        message = AIMessageChunk(
            content=text,
            additional_kwargs=thoughts_of(thought),
            tool_call_chunks=[
                tool_call_chunk(
                    name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=i
                )
                for i, call in enumerate(calls)
            ],
            usage_metadata=usage_of(event),
            chunk_position="last",
        )
        info = self._info(event, called=bool(calls))
        yield ChatGenerationChunk(message=message, generation_info=info)

    def _info(self, answer: Finished, called: bool) -> dict[str, Any]:
        info = {"model_name": self.model_name, **answer_info(answer)}
        return {**info, "finish_reason": "tool_calls"} if called else info

    # Properties that LangChain reads.

    def _resolve_model_profile(self) -> ModelProfile:
        profile: dict[str, Any] = {"name": self.model_name, "temperature": True}
        profile |= {"text_inputs": True, "text_outputs": True, **dict.fromkeys(_NOT_TEXT, False)}
        proposer = Proposer.of(self.proposer)
        formed = Proposer.offered(self.proposer, "check_constraint")
        called = formed and (proposer.tokenizer is None or proposer.tokenizer.chat is not None)
        profile["reasoning_output"] = self._thinks
        profile |= {"tool_calling": called, "tool_choice": called, "structured_output": formed}
        guides = None if self.guides is None else BaseGuidePair.of(self.guides)
        limits = [proposer.max_positions, None if guides is None else guides.max_positions]
        if known := [limit for limit in limits if limit is not None]:
            profile["max_input_tokens"] = min(known)
        return cast("ModelProfile", profile)

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        model = self._overridden(stop, kwargs)
        return {**model.asdict(), "stop": list(model.stop) or None}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Return the cache key: everything an answer depends on, fields and overrides alike."""
        return str(sorted(self._get_invocation_params(stop, **kwargs).items()))

    def _streaming_disabled(self, **kwargs: Any) -> bool:
        # An explicit stream with n > 1 must reach the error; other calls just do not stream.
        several = kwargs.get("n", self.n) != 1 and not kwargs.get("stream")
        return several or super()._streaming_disabled(**kwargs)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[AnyTool] | None = None
    ) -> int:
        """Return the tokens that the large model reads: ``usage_metadata["input_tokens"]``.

        Chat template, tools and the schema of the answer are counted as a call would show them.

        Args:
            messages: A conversation, or the end of one, as ``trim_messages`` counts it: if the
                chat template refuses to begin there, an empty user turn goes before.
            tools: The tools that ``bind_tools`` is given; by default the model's own.

        Raises:
            ConfigError: The tokenizer is not available here, and ``custom_get_token_ids`` is not
                set.
            PromptError: The conversation cannot be shown to the model.
        """
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        if not messages:
            return 0
        model = self if tools is None else self._overridden(None, {"tools": tools})
        prompt = model._prompt(messages)
        try:
            return model._count(prompt)
        except PromptError:
            if isinstance(messages[0], HumanMessage):
                raise
            return model._count(model._prompt([HumanMessage(""), *messages]))

    # Several conversations.

    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Any = None,
        *,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """Generate like LangChain, but batch the model calls of all conversations."""
        check_blocks(chain.from_iterable(messages))
        single = partial(super().generate, stop=stop, callbacks=callbacks, **kwargs)
        if len(messages) < 2:
            return single(messages, run_id=run_id)
        ids = [run_id, *[None] * (len(messages) - 1)]
        calls = [partial(single, [one], run_id=own) for one, own in zip(messages, ids, strict=True)]
        with self._together(len(calls), kwargs) as together:
            results = together.in_threads(calls, self.engine.max_live)
        return LLMResult(
            generations=[own for result in results for own in result.generations],
            llm_output={},
            run=[run for result in results for run in result.run or ()],
        )

    async def agenerate(
        self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any
    ) -> LLMResult:
        """Generate like LangChain."""
        check_blocks(chain.from_iterable(messages))
        return await super().agenerate(messages, *args, **kwargs)

    # One conversation.

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        value: PromptValue = super()._convert_input(model_input)
        check_blocks(value.to_messages())
        return value

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._overridden(stop, kwargs)
        runs = [] if run_manager is None else [run_manager]
        with model._searches([prompt := model._prompt(messages)], runs) as searches:
            return model._result([*searches], prompt)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model = self._overridden(stop, kwargs)
        runs = [] if run_manager is None else [run_manager]
        with model._searches([prompt := model._prompt(messages)], runs) as searches:
            return model._result([found async for found in searches], prompt)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model = self._overridden(stop, kwargs)
        runs = current_runs()[:1] if run_manager is None else [run_manager]
        with model._searches([prompt := model._prompt(messages)], runs, text=True) as search:
            reader = model.answer_reader(prompt)
            for _, event in search:
                yield from model._chunks(event, reader)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        model = self._overridden(stop, kwargs)
        runs = current_runs()[:1] if run_manager is None else [run_manager]
        with model._searches([prompt := model._prompt(messages)], runs, text=True) as search:
            reader = model.answer_reader(prompt)
            async for _, event in search:
                for chunk in model._chunks(event, reader):
                    yield chunk

    # LangChain does not always pass ``_stream`` its run.

    def _generate_with_cache(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with known_runs([] if run_manager is None else [run_manager]):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with known_runs([] if run_manager is None else [run_manager]):
            return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Stream text as it is committed; it is never taken back."""
        config, run = streamed_run(self, config)
        stream: Any = super().stream(input, config, stop=stop, **kwargs)
        with closing(stream):
            with known_runs([run]):
                first = next(stream, None)
            if first is not None:
                yield first
                yield from stream

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Stream text as it is committed; it is never taken back."""
        config, run = streamed_run(self, config)
        stream: Any = super().astream(input, config, stop=stop, **kwargs)
        async with ClosingInLoop(stream):
            with known_runs([run]):
                first = await anext(stream, None)
            if first is not None:
                yield first
                async for chunk in stream:
                    yield chunk
