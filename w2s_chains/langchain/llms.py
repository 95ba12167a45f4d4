"""``W2SLLM``: guided generation as a LangChain LLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self, Unpack

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.messages import BaseMessage, get_buffer_string
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig

from w2s_chains.config.arguments import Arguments, ProposerLike
from w2s_chains.config.sections import ModelType
from w2s_chains.core.events import Committed, Event, Finished
from w2s_chains.langchain.base import GuidedModel
from w2s_chains.langchain.generation import ClosingInLoop, answer_info, by_prompt
from w2s_chains.langchain.tracing import current_runs, known_runs

_OPTIONS = frozenset({"tags", "metadata", "run_name", "run_id"})
"""Arguments of ``generate`` that LangChain handles itself."""


class W2SLLM(GuidedModel, BaseLLM):
    """A large frozen model, steered by a small tuned and a small untuned one, for raw prompts.

    Examples:
        >>> llm = W2SLLM(
        ...     proposer=Model(
        ...         "embedded:smollm2-135m-instruct", template="Here is a movie review: {prompt}"),
        ...     guides=Guides(
        ...         tuned="embedded:reviews-tuned", untuned="embedded:reviews-untuned"),
        ...     strategy=ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
        ...     max_tokens=50, temperature=0.7, seed=0)
        >>> llm.invoke("the plot of this film")

    Every field from ``strategy`` to ``progress`` can be overridden in a single call:
    ``llm.invoke(prompt, strategy=Sampling(), max_tokens=20)``. The fields are those of
    ``GuidedModel``.
    """

    model_config = GuidedModel.model_config
    config_type: ClassVar[ModelType] = "llm"

    def __init__(self, proposer: ProposerLike | None = None, **fields: Unpack[Arguments]) -> None:
        """Load the models that are named, and put the parts together; see ``GuidedModel``.

        Raises:
            ConfigError: A field is misspelt or out of range, or a part is missing.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model cannot do what a search needs.
        """
        given: dict[str, Any] = {"proposer": proposer, **fields}
        super().__init__(**given)

    def get_num_tokens(self, text: str) -> int:
        """Return the tokens that the large model reads of a prompt, its template included.

        Raises:
            ConfigError: Its tokenizer is not available here, and ``custom_get_token_ids`` is not
                set.
        """
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens(text)
        return self._count(text) if text else len(self.get_token_ids(text))

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the tokens of messages as this model reads them, which is as one text."""
        return self.get_num_tokens(get_buffer_string(messages))

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        **options: Any,
    ) -> LLMResult:
        """Generate like LangChain, with overrides of the call in the cache key."""
        llm, known = self._for_call(stop, callbacks, options)
        return super(W2SLLM, llm).generate(prompts, **known)

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        **options: Any,
    ) -> LLMResult:
        """Generate like LangChain, with overrides of the call in the cache key."""
        llm, known = self._for_call(stop, callbacks, options)
        return await super(W2SLLM, llm).agenerate(prompts, **known)

    def _for_call(
        self, stop: Sequence[str] | None, callbacks: Any, options: dict[str, Any]
    ) -> tuple[Self, dict[str, Any]]:
        """Return this model with the overrides of a call, and LangChain's own arguments."""
        known = {name: value for name, value in options.items() if name in _OPTIONS}
        others = {name: value for name, value in options.items() if name not in _OPTIONS}
        llm = self._overridden(stop, others)
        # Pass stop explicitly, since LangChain's cache key ignores a configured one, and never an
        # empty list of callbacks, which LangChain takes for one list per prompt.
        return llm, {"stop": list(llm.stop) or None, "callbacks": callbacks or None, **known}

    def batch(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answer all inputs in one run; ``return_exceptions`` isolates the ones that fail."""
        batch = super().batch if return_exceptions else partial(BaseLLM.batch, self)
        return batch([*inputs], config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Answer all inputs in one run; ``return_exceptions`` isolates the ones that fail."""
        abatch = super().abatch if return_exceptions else partial(BaseLLM.abatch, self)
        return await abatch([*inputs], config, return_exceptions=return_exceptions, **kwargs)

    # LangChain passes ``_generate`` only the run of the first prompt.

    def _generate_helper(
        self, prompts: list[str], stop: Any, run_managers: Any, **kwargs: Any
    ) -> LLMResult:
        with known_runs(run_managers):
            return super()._generate_helper(prompts, stop, run_managers, **kwargs)

    async def _agenerate_helper(
        self, prompts: list[str], stop: Any, run_managers: Any, **kwargs: Any
    ) -> LLMResult:
        with known_runs(run_managers):
            return await super()._agenerate_helper(prompts, stop, run_managers, **kwargs)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        llm = self._overridden(stop, kwargs)
        with llm._searches(prompts, current_runs()) as searches:
            return llm._result([*searches])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        llm = self._overridden(stop, kwargs)
        with llm._searches(prompts, current_runs()) as searches:
            return llm._result([found async for found in searches])

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        runs = [] if run_manager is None else [run_manager]
        with self._overridden(stop, kwargs)._searches([prompt], runs, text=True) as search:
            for _, event in search:
                chunk = _chunk(event)
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        runs = [] if run_manager is None else [run_manager]
        with self._overridden(stop, kwargs)._searches([prompt], runs, text=True) as search:
            async for _, event in search:
                chunk = _chunk(event)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[str]:
        """Stream text as it is committed; it is never taken back."""
        stream: Any = super().astream(input, config, stop=stop, **kwargs)
        async with ClosingInLoop(stream):
            async for piece in stream:
                yield piece

    def _prompt_of(self, value: PromptValue) -> str:
        return value.to_string()

    def _result(self, found: Sequence[tuple[int, Event]]) -> LLMResult:
        answers = by_prompt(found, self.n)
        generations = [
            [Generation(text=one.text, generation_info=answer_info(one)) for one in own]
            for own in answers
        ]
        # Answers to one prompt share counters, so the last to finish has the full count.
        usage = {
            name: sum(max(getattr(one, name) or 0 for one in own) for own in answers)
            for name in ("prompt_tokens", "read_tokens", "proposed_tokens", "guide_tokens")
        }
        output = {"model_name": self.model_name, "token_usage": usage}
        return LLMResult(generations=generations, llm_output=output)


def _chunk(event: Committed | Finished) -> GenerationChunk:
    if isinstance(event, Committed):
        return GenerationChunk(text=event.text)
    return GenerationChunk(text="", generation_info=answer_info(event))
