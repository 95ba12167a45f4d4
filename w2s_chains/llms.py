"""Guided generation as a LangChain LLM."""

from __future__ import annotations

import asyncio
import queue
import secrets
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models import BaseLLM, LanguageModelInput
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, get_executor_for_config
from langchain_core.runnables.utils import gather_with_concurrency
from pydantic import ConfigDict, Field
from tqdm.auto import tqdm

from w2s_chains.asks import (
    MaxTokens,
    RepetitionPenalty,
    SamplingParams,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from w2s_chains.backend.noise import fork
from w2s_chains.config import (
    GenerationSection,
    W2SConfig,
    describe,
    load_config,
    sections_of,
    write_config,
)
from w2s_chains.contracts import Guides, Proposer, Scorer
from w2s_chains.engine import Engine, shared_engine
from w2s_chains.errors import ConfigError
from w2s_chains.events import Committed, Event, Failed, Finished, Progressed
from w2s_chains.faults import clear_errors
from w2s_chains.hypothesis import Hypothesis
from w2s_chains.jobs import Job, Running
from w2s_chains.plugins import did_you_mean
from w2s_chains.search import AnyStrategy, ChunkBeamSearch

_bar_of_batch: ContextVar[Callable[[Event], None] | None] = ContextVar("bar", default=None)

_CALL_FIELDS = frozenset({*SamplingParams.model_fields, "strategy", "n", "progress"})
"""What a single call may override."""


class W2SLLM(BaseLLM):
    """A large frozen model, steered by a small tuned and a small untuned one.

    Example:
        >>> llm = W2SLLM.from_pretrained(
        ...     "embedded:smollm2-135m-instruct",
        ...     tuned="embedded:reviews-tuned", untuned="embedded:reviews-untuned",
        ...     proposer_template="Here is a movie review: {prompt}",
        ...     strategy=ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
        ...     max_tokens=50, temperature=0.7, seed=0)
        >>> llm.invoke("the plot of this film")

    Every field from ``strategy`` on can be overridden in a single call:
    ``llm.invoke(prompt, strategy=Sampling(), max_tokens=20)``.

    Attributes:
        proposer: The large model.
        scorer: The value of partial answers; None for strategies that need none.
        guide: The pair for token-level steering; by default the scorer's.
        strategy: How to search; an object, or a mapping with a ``type``.
        n: Answers per prompt, from independent searches; the first is the one of ``n=1``.
        progress: Show a progress bar while a batch runs.
        engine: Runs the searches; by default one for the whole process.

    The other fields are those of ``SamplingParams``.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", validate_assignment=True
    )

    proposer: Proposer = Field(exclude=True, repr=False)
    scorer: Scorer | None = Field(default=None, exclude=True, repr=False)
    guide: Guides | None = Field(default=None, exclude=True, repr=False)
    engine: Engine = Field(default_factory=shared_engine, exclude=True, repr=False)
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    max_tokens: MaxTokens = 256
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK | None = None
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = ()
    seed: int | None = None
    n: int = Field(default=1, ge=1)
    progress: bool = False

    def __init__(self, **fields: Any) -> None:
        """Put parts together; see the attributes.

        Raises:
            ConfigError: A field is misspelt or out of range.
        """
        with clear_errors(type(self), fields, type(self).__name__):
            super().__init__(**fields)

    def __setattr__(self, name: str, value: Any) -> None:
        with clear_errors(type(self), {name: value}, type(self).__name__):
            super().__setattr__(name, value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the parts: they cannot be copied, and nothing changes them."""
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ConfigError(
            f"a {type(self).__name__} holds models and cannot be pickled; send to_config() to the "
            "other process, and call from_config() there"
        )

    # Ways to make one.

    @classmethod
    def from_pretrained(
        cls, proposer: str, *, tuned: str | None = None, untuned: str | None = None, **options: Any
    ) -> Self:
        """Load the models by name and put everything together.

        Args:
            proposer: The large model: hub id, local folder, GGUF file, or ``embedded:NAME``.
            tuned: The small tuned model, likewise.
            untuned: The small model that ``tuned`` was tuned from.
            **options: Fields of this class, and fields of ``ModelSpec`` behind ``proposer_``,
                ``guide_`` (both guides), ``tuned_`` or ``untuned_``, such as
                ``proposer_template="Review: {prompt}"``, ``proposer_device_map="auto"``,
                ``guide_chat=True``; ``device`` and ``dtype`` without prefix mean all models.

        Raises:
            ConfigError: An option is misspelt or out of range, or only one guide is given.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model cannot branch.
        """
        sections, fields = sections_of(proposer, tuned, untuned, options)
        cls._refuse_unknown(fields)
        return cls._build(load_config(sections), fields)

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any], **fields: Any) -> Self:
        """Read a YAML file, or a mapping of the same form.

        Args:
            config: Sections ``proposer``, ``guide``, ``scorer``, ``strategy``, ``generation``.
            **fields: Fields of this class; they win over the file, and parts that are given here
                are not loaded.

        Raises:
            ConfigError: Broken YAML, an unknown strategy, a misspelt field, a value out of range;
                with file and line.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model cannot branch.
        """
        cls._refuse_unknown(fields)
        return cls._build(load_config(config), fields)

    @classmethod
    def _refuse_unknown(cls, fields: Mapping[str, Any]) -> None:
        for name in fields:
            if name not in cls.model_fields:
                raise ConfigError(f"unknown field {name!r}{did_you_mean(name, cls.model_fields)}")

    @classmethod
    def _build(cls, config: W2SConfig, fields: Mapping[str, Any]) -> Self:
        in_config = {"strategy", *GenerationSection.model_fields}
        config = config.overridden({k: v for k, v in fields.items() if k in in_config})
        others = {name: value for name, value in fields.items() if name not in in_config}
        return cls(**{**config.build(given=others), **others})

    def to_config(self, path: str | Path | None = None) -> dict[str, Any]:
        """The configuration as a mapping that ``from_config`` reads; also as a YAML file.

        Args:
            path: Where to write the file; None to write none.

        Raises:
            ConfigError: A part was built by hand, so that no config can name it; or the file cannot
                be written.
        """
        generation = GenerationSection(**self._sampling().model_dump(), n=self.n)
        config = W2SConfig.of_parts(
            self.proposer, self.scorer, self.guide, self.strategy, generation
        )
        return write_config(config, path)

    # What LangChain asks for.

    @property
    def _llm_type(self) -> str:
        return "w2s"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything an answer depends on: LangChain's caches use it as their key."""
        return {
            "model_name": describe(self.proposer),
            "scorer": describe(self.scorer),
            "guide": describe(self.guide),
            "strategy": {"class": repr(type(self.strategy)), **self.strategy.model_dump()},
            **self._sampling().model_dump(),
            "n": self.n,
        }

    def generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        *,
        tags: Any = None,
        metadata: Any = None,
        run_name: Any = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in LangChain, with per-call overrides part of the cache key."""
        llm = self._overridden(stop, kwargs)
        return super(W2SLLM, llm).generate(
            prompts,
            list(llm.stop) or None,  # or LangChain's key would have None for a configured stop
            callbacks or None,  # LangChain takes an empty list for one list per prompt
            tags=tags,
            metadata=metadata,
            run_name=run_name,
            run_id=run_id,
        )

    async def agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        callbacks: Any = None,
        *,
        tags: Any = None,
        metadata: Any = None,
        run_name: Any = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As in LangChain, with per-call overrides part of the cache key."""
        llm = self._overridden(stop, kwargs)
        return await super(W2SLLM, llm).agenerate(
            prompts,
            list(llm.stop) or None,
            callbacks or None,
            tags=tags,
            metadata=metadata,
            run_name=run_name,
            run_id=run_id,
        )

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """One batched run; with ``return_exceptions`` a prompt that fails harms no other."""
        if not return_exceptions:
            return super().batch(inputs, config, **kwargs)
        # One call per prompt, each with its own outcome; the engine makes them one batch.
        configs = get_config_list(config, len(inputs))

        def answer(model_input: LanguageModelInput, own: RunnableConfig) -> Any:
            try:
                return self.invoke(model_input, own, **kwargs)
            except Exception as error:
                return error

        together: RunnableConfig = {"max_concurrency": self.engine.max_live}
        with (
            self._one_bar(len(inputs), kwargs),
            get_executor_for_config({**together, **_limit(configs)}) as executor,
        ):
            return list(executor.map(answer, inputs, configs))

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """One batched run; with ``return_exceptions`` a prompt that fails harms no other."""
        if not return_exceptions:
            return await super().abatch(inputs, config, **kwargs)
        configs = get_config_list(config, len(inputs))

        async def answer(model_input: LanguageModelInput, own: RunnableConfig) -> Any:
            try:
                return await self.ainvoke(model_input, own, **kwargs)
            except Exception as error:
                return error

        with self._one_bar(len(inputs), kwargs):
            return await gather_with_concurrency(
                _limit(configs).get("max_concurrency"), *map(answer, inputs, configs)
            )

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        llm = self._overridden(stop, kwargs)
        jobs = llm.jobs(prompts)
        with llm._progress(len(prompts)) as listener:
            running = llm.engine.submit(jobs, listener)
            try:
                wait([r.future for r in running], return_when=FIRST_EXCEPTION)
                for one in running:
                    if one.future.done() and (error := one.future.exception()):
                        raise error
                return llm._result([r.future.result() for r in running])
            finally:
                _cancel(running)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        llm = self._overridden(stop, kwargs)
        jobs = llm.jobs(prompts)
        with llm._progress(len(prompts)) as listener:
            running = llm.engine.submit(jobs, listener)
            try:
                futures = [asyncio.wrap_future(r.future) for r in running]
                return llm._result(await asyncio.gather(*futures))
            finally:
                _cancel(running)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        running = self._overridden(stop, kwargs)._start_stream(prompt, events.put)
        try:
            last = False
            while not last:
                chunk, last = _chunk(events.get())
                if chunk is not None:
                    if run_manager is not None:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            _cancel(running)

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        running = self._overridden(stop, kwargs)._start_stream(prompt, put)
        try:
            last = False
            while not last:
                chunk, last = _chunk(await events.get())
                if chunk is not None:
                    if run_manager is not None:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
        finally:
            _cancel(running)

    # Inside.

    def _overridden(self, stop: Sequence[str] | None, overrides: Mapping[str, Any]) -> Self:
        """This model with the arguments of one call; validated, sharing all parts."""
        for name in overrides:
            if name not in _CALL_FIELDS:
                hint = did_you_mean(name, _CALL_FIELDS)
                raise ConfigError(f"unknown argument {name!r} of a call{hint}")
        changed = dict(overrides) if stop is None else {**overrides, "stop": stop}
        if not changed:
            return self
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **changed})

    def _sampling(self) -> SamplingParams:
        return SamplingParams(**{name: getattr(self, name) for name in SamplingParams.model_fields})

    def jobs(self, prompts: Sequence[str]) -> list[Job]:
        """The searches that answer ``prompts``, for callers who run the engine themselves.

        Returns:
            One checked job per answer, ``n`` after another for each prompt.

        Raises:
            ConfigError: The strategy needs a part that is not there.
            PromptError: A prompt does not fit one of the models.
        """
        guides = getattr(self.scorer, "pair", None) if self.guide is None else self.guide
        job = partial(
            Job,
            strategy=self.strategy,
            proposer=self.proposer,
            scorer=self.scorer,
            guides=guides,
            sampling=self._sampling(),
        )
        jobs: list[Job] = []
        for root in map(Hypothesis.root, prompts):
            seed = secrets.randbits(63) if self.seed is None else self.seed
            jobs.append(job(root=root, seed=seed))
            jobs[-1].check()
            jobs += [job(root=root, seed=fork(seed, i)) for i in range(1, self.n)]
        return jobs

    def _start_stream(self, prompt: str, on_event: Any) -> list[Running]:
        if self.n != 1:
            raise ConfigError(f"a stream gives one answer, but n is {self.n}; set n=1 or use batch")
        return self.engine.submit(self.jobs([prompt]), on_event)

    @contextmanager
    def _one_bar(self, prompts: int, overrides: Mapping[str, Any]) -> Generator[None]:
        """One progress bar for many calls; each of them finds it instead of making its own."""
        names = ("max_tokens", "n", "strategy", "progress")
        changed = {name: overrides[name] for name in names if name in overrides}
        try:
            llm = self._overridden(None, changed)
        except ConfigError:  # every call will say so
            llm = self.model_copy(update={"progress": False})
        with llm._progress(prompts) as listener:
            token = _bar_of_batch.set(listener)
            try:
                yield
            finally:
                _bar_of_batch.reset(token)

    @contextmanager
    def _progress(self, prompts: int) -> Generator[Callable[[Event], None] | None]:
        """A progress bar in tokens, since the answers of a batch end together; its listener."""
        if not self.progress:
            yield None
        elif (listener := _bar_of_batch.get()) is not None:
            yield listener
        else:
            total = prompts * self.n * self.max_tokens
            with tqdm(total=total, desc=self.strategy.type, unit="token") as bar:

                def listen(event: Event) -> None:
                    if isinstance(event, Progressed):
                        bar.update(event.tokens)

                yield listen

    def _result(self, answers: Sequence[Finished]) -> LLMResult:
        generations = [
            Generation(text=answer.text, generation_info=_info(answer)) for answer in answers
        ]
        grouped = [generations[i : i + self.n] for i in range(0, len(generations), self.n)]
        # Answers to one prompt share its counters; the last to finish has seen them all.
        usage = {
            name: sum(
                max(getattr(answer, name) for answer in answers[i : i + self.n])
                for i in range(0, len(answers), self.n)
            )
            for name in ("prompt_tokens", "proposed_tokens", "guide_tokens")
        }
        output = {"model_name": describe(self.proposer), "token_usage": usage}
        return LLMResult(generations=grouped, llm_output=output)


def _info(answer: Finished) -> dict[str, Any]:
    return {
        "score": answer.score,
        "finish_reason": answer.finish_reason,
        "completion_tokens": answer.completion_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "proposed_tokens": answer.proposed_tokens,
        "guide_tokens": answer.guide_tokens,
    }


def _chunk(event: Event) -> tuple[GenerationChunk | None, bool]:
    """What a stream gives for an event, and whether that is the last."""
    if isinstance(event, Failed):
        raise event.error
    if isinstance(event, Committed):
        return GenerationChunk(text=event.text), False
    if isinstance(event, Finished):
        return GenerationChunk(text="", generation_info=_info(event)), True
    return None, False


def _cancel(running: Sequence[Running]) -> None:
    for one in running:
        if not one.future.done():
            one.cancel()


def _limit(configs: Sequence[RunnableConfig]) -> RunnableConfig:
    """The caller's limit of concurrency, as LangChain reads it for a batch: from the first."""
    limit = configs[0].get("max_concurrency") if configs else None
    return {} if limit is None else {"max_concurrency": limit}
