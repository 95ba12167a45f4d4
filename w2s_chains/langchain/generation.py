"""How a guided model answers: all at once, as a stream, or many calls as one batch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager
from functools import partial
from typing import Any, TypeVar

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list, get_executor_for_config
from tqdm.auto import tqdm

from w2s_chains.core.events import Committed, Event, Finished, Progressed, Scored
from w2s_chains.core.prompts import Prompt
from w2s_chains.engine.job import Job
from w2s_chains.engine.waiting import (
    Listener,
    aanswers,
    acall_all,
    afollow,
    answers,
    call_all,
    follow,
    listener_of_batch,
)
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.base import Assembled
from w2s_chains.langchain.tracing import ChunkRuns

T = TypeVar("T")
Runs = Sequence[BaseRunManager]
"""The runs that ask, one per prompt or none; if their handlers listen, they are told of chunks."""


class Guided(Assembled):
    """Shared by ``W2SLLM`` and ``ChatW2S``."""

    # All at once.

    def _answers(self, prompts: Sequence[str | Prompt], runs: Runs) -> list[list[Finished]]:
        """Answers to each prompt; all searches share their batches."""
        jobs, told = self.jobs(prompts), [ChunkRuns(run) for run in runs]
        with self._progress(len(prompts)) as listener:
            if not any(told):
                return self._grouped(answers(self.engine, jobs, listener))
            done: dict[int, Finished] = {}
            with closing(follow(self.engine, jobs, listener)) as events:
                for index, event in events:
                    if isinstance(event, Scored):
                        told[index // self.n].tell(index % self.n, event)
                    elif isinstance(event, Finished):
                        done[index] = event
            return self._grouped([done[index] for index in range(len(jobs))])

    async def _aanswers(self, prompts: Sequence[str | Prompt], runs: Runs) -> list[list[Finished]]:
        jobs, told = self.jobs(prompts), [ChunkRuns(run) for run in runs]
        with self._progress(len(prompts)) as listener:
            if not any(told):
                return self._grouped(await aanswers(self.engine, jobs, listener))
            done: dict[int, Finished] = {}
            async with aclosing(afollow(self.engine, jobs, listener)) as events:
                async for index, event in events:
                    if isinstance(event, Scored):
                        await told[index // self.n].atell(index % self.n, event)
                    elif isinstance(event, Finished):
                        done[index] = event
            return self._grouped([done[index] for index in range(len(jobs))])

    def _grouped(self, flat: Sequence[Finished]) -> list[list[Finished]]:
        return [list(flat[i : i + self.n]) for i in range(0, len(flat), self.n)]

    # As a stream.

    def _follow(
        self, prompt: str | Prompt, run: BaseRunManager | None
    ) -> Generator[Committed | Finished]:
        """Text as it is committed, and what comes with it in the end."""
        told = ChunkRuns(run)
        with closing(follow(self.engine, self._stream_jobs(prompt), None)) as events:
            for _, event in events:
                if isinstance(event, Scored):
                    told.tell(0, event)
                elif isinstance(event, Committed | Finished):
                    yield event

    async def _afollow(
        self, prompt: str | Prompt, run: BaseRunManager | None
    ) -> AsyncGenerator[Committed | Finished]:
        told = ChunkRuns(run)
        async with aclosing(afollow(self.engine, self._stream_jobs(prompt), None)) as events:
            async for _, event in events:
                if isinstance(event, Scored):
                    await told.atell(0, event)
                elif isinstance(event, Committed | Finished):
                    yield event

    def _stream_jobs(self, prompt: str | Prompt) -> list[Job]:
        if self.n != 1:
            raise ConfigError(f"a stream gives one answer, but n is {self.n}; set n=1 or use batch")
        return self.jobs([prompt])

    # Many calls as one batch: each has its own run, and the engine makes them share model calls.

    def _side_by_side(
        self, calls: Sequence[Callable[[], T]], config: RunnableConfig, overrides: Mapping[str, Any]
    ) -> list[T]:
        if len(calls) == 1:
            return [calls[0]()]
        limit = config.get("max_concurrency")
        together: RunnableConfig = {"max_concurrency": limit or self.engine.max_live}
        with (
            self._one_bar(len(calls), overrides) as listener,
            get_executor_for_config(together) as executor,
        ):
            return call_all(calls, executor, listener)

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """One ``invoke`` per input; with ``return_exceptions`` one that fails harms no other."""
        if not inputs:
            return []
        configs = get_config_list(config, len(inputs))

        def call(one: LanguageModelInput, own: RunnableConfig) -> Any:
            try:
                return self.invoke(one, own, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        calls = [partial(call, *row) for row in zip(inputs, configs, strict=True)]
        return self._side_by_side(calls, configs[0], kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """One ``ainvoke`` per input; with ``return_exceptions`` one that fails harms no other."""
        if not inputs:
            return []
        configs = get_config_list(config, len(inputs))

        async def call(one: LanguageModelInput, own: RunnableConfig) -> Any:
            try:
                return await self.ainvoke(one, own, **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise

        calls = [partial(call, *row) for row in zip(inputs, configs, strict=True)]
        with self._one_bar(len(inputs), kwargs) as listener:
            return await acall_all(calls, configs[0].get("max_concurrency"), listener)

    @contextmanager
    def _one_bar(self, prompts: int, overrides: Mapping[str, Any]) -> Generator[Listener | None]:
        """One progress bar for many calls; each of them finds it instead of making its own."""
        names = ("max_tokens", "n", "strategy", "progress")
        changed = {name: overrides[name] for name in names if name in overrides}
        try:
            model = self._overridden(None, changed)
        except ConfigError:  # every call will say so
            model = self.model_copy(update={"progress": False})
        with model._progress(prompts) as listener:
            yield listener

    @contextmanager
    def _progress(self, prompts: int) -> Generator[Listener | None]:
        """A progress bar in tokens, since the answers of a batch end together; its listener."""
        if not self.progress:
            yield None
        elif (listener := listener_of_batch()) is not None:
            yield listener
        else:
            total = prompts * self.n * self.max_tokens
            with tqdm(total=total, desc=self.strategy.type, unit="token") as bar:

                def listen(event: Event) -> None:
                    if isinstance(event, Progressed):
                        bar.update(event.tokens)

                yield listen


def answer_info(answer: Finished) -> dict[str, Any]:
    """What comes with an answer's text."""
    return {
        "score": answer.score,
        "finish_reason": answer.finish_reason,
        "completion_tokens": answer.completion_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "proposed_tokens": answer.proposed_tokens,
        "guide_tokens": answer.guide_tokens,
        "kl": answer.kl,
    }
