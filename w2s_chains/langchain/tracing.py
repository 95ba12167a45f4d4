"""Tell what a search did: ``Traceable`` as a tree, ``ChunkRuns`` to LangChain's callbacks.

Tracers such as LangSmith show a child run per chunk below the model's own run, and
``astream_events`` yields them as ``on_chain_start`` and ``on_chain_end``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
)
from langchain_core.callbacks.manager import BaseRunManager, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLanguageModel, LanguageModelInput
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from w2s_chains.core.events import Committed, Event, Grown, Scored
from w2s_chains.core.prompts import Prompt
from w2s_chains.engine.job import Job
from w2s_chains.engine.scheduler import Engine
from w2s_chains.engine.waiting import EventStream
from w2s_chains.errors import ConfigError
from w2s_chains.tracing.builder import TraceBuilder
from w2s_chains.tracing.trace import Trace, prompt_of

NAME = "w2s_chunk"
_MOST_CANDIDATES = 16
_LONGEST_TEXT = 200

VERSIONS: dict[str, str] = {}
"""Versions of the packages that answers depend on, for the metadata of every run."""
for _name in ("w2s_chains", "torch", "transformers"):
    with suppress(PackageNotFoundError):  # the package is used without being installed
        VERSIONS[_name] = version(_name)

_runs: ContextVar[Sequence[BaseRunManager]] = ContextVar("runs", default=())


@contextmanager
def known_runs(runs: Sequence[BaseRunManager]) -> Generator[None]:
    """Make runs available to a model's own methods where LangChain does not pass all of them."""
    token = _runs.set(runs)
    try:
        yield
    finally:
        _runs.reset(token)


def current_runs() -> Sequence[BaseRunManager]:
    """Return the runs of the current call, one per prompt, or none outside ``known_runs``."""
    return _runs.get()


def builder_of(job: Job, model: str) -> TraceBuilder:
    """Return what builds the tree of a search, for callers who run the engine themselves."""
    prompt = job.root.prompt
    return TraceBuilder(
        prompt=prompt_of(prompt.plain_text, prompt.messages),
        model=model,
        strategy=job.strategy.model_dump(mode="json"),
        sampling=job.sampling.model_dump(mode="json", exclude={"seed"}),
        seed=job.seed,
    )


class TracedSearch(EventStream):
    """The events of one search, which also build its tree.

    Attributes:
        builder: Gives the tree so far: ``builder.trace()``.
    """

    def __init__(self, engine: Engine, job: Job, model: str) -> None:
        """Prepare the search; entering starts it."""
        self.builder = builder_of(job, model)
        super().__init__(engine, [job], (Committed, Scored, Grown))

    def _opened(self, item: tuple[int, Event]) -> tuple[int, Event]:
        item = super()._opened(item)
        self.builder.take(item[1])
        return item


class Traceable:
    """What a guided model tells of its searches."""

    if TYPE_CHECKING:
        engine: Engine
        n: int

        @property
        def model_name(self) -> str: ...
        def jobs(self, prompts: Sequence[str | Prompt]) -> list[Job]: ...
        def _overridden(self, stop: Sequence[str] | None, overrides: Any) -> Self: ...
        def _convert_input(self, model_input: LanguageModelInput) -> PromptValue: ...
        def _prompt_of(self, value: PromptValue) -> str | Prompt: ...

    def trace(self, input: LanguageModelInput, **overrides: Any) -> Trace:
        """Answer a prompt, and return the answer with the tree of its search.

        The answer is that of ``invoke``. LangChain's callbacks are not called.

        Args:
            input: What ``invoke`` takes.
            **overrides: Fields of this call, such as ``strategy`` or ``seed``.

        Raises:
            W2SError: As ``invoke`` raises it; ConfigError also if ``n`` is not 1.
        """
        with self.traced(input, **overrides) as search:
            for _ in search:
                pass
        return search.builder.trace()

    def traced(self, input: LanguageModelInput, **overrides: Any) -> TracedSearch:
        """Return a search whose events can be read while its tree grows; raises like ``trace``.

        Use it in ``with``, and iterate with ``for`` or ``async for``.
        """
        model = self._overridden(overrides.pop("stop", None), overrides)
        if model.n != 1:
            raise ConfigError(f"a trace shows one search, but n is {model.n}; set n=1")
        [job] = model._jobs_of(input)
        return TracedSearch(model.engine, job, model.model_name)

    def committed(self, input: LanguageModelInput, **overrides: Any) -> EventStream:
        """Return the searches of all ``n`` answers, which yield text as it is committed.

        Use it like ``traced``; it raises like ``invoke``.
        """
        model = self._overridden(overrides.pop("stop", None), overrides)
        return EventStream(model.engine, model._jobs_of(input), (Committed,))

    def _jobs_of(self, input: LanguageModelInput) -> list[Job]:
        return self.jobs([self._prompt_of(self._convert_input(input))])


class ChunkRuns:
    """The child runs of a call: one per step of each search whose run has handlers for them."""

    def __init__(self, runs: Sequence[BaseRunManager], answers: int = 1) -> None:
        """Prepare the child runs.

        Args:
            runs: The runs of the model, one per prompt.
            answers: The number of searches per prompt; their indices are consecutive.
        """
        self._runs = [
            run if any(not h.ignore_chain for h in run.handlers) else None for run in runs
        ]
        self._answers = answers
        self._steps: Counter[int] = Counter()

    def __bool__(self) -> bool:
        """Return whether any run has a handler."""
        return any(self._runs)

    def tell(self, index: int, event: Scored) -> None:
        """Call the handlers of a synchronous run.

        Args:
            index: The index of the search.
            event: The candidates of one step.
        """
        if (run := self._runs[index // self._answers]) is not None:
            manager = CallbackManager(**_inherited(run))
            child = manager.on_chain_start(None, self._inputs(index), name=NAME)
            child.on_chain_end(_candidates(event))

    async def tell_async(self, index: int, event: Scored) -> None:
        """Call the handlers of an asynchronous run."""
        if (run := self._runs[index // self._answers]) is not None:
            manager = AsyncCallbackManager(**_inherited(run))
            child = await manager.on_chain_start(None, self._inputs(index), name=NAME)
            await child.on_chain_end(_candidates(event))

    def _inputs(self, index: int) -> dict[str, int]:
        self._steps[index] += 1
        return {"answer": index % self._answers, "step": self._steps[index] - 1}


def _inherited(run: BaseRunManager) -> dict[str, Any]:
    """Return what a child run inherits from its parent."""
    return {
        "handlers": run.handlers,
        "inheritable_handlers": run.inheritable_handlers,
        "parent_run_id": run.run_id,
        "tags": run.inheritable_tags,
        "inheritable_tags": run.inheritable_tags,
        "metadata": run.inheritable_metadata,
        "inheritable_metadata": run.inheritable_metadata,
    }


def _candidates(event: Scored) -> dict[str, Any]:
    """Return the best candidates in the order of the search, each with the end of its text."""
    ranked = sorted(range(len(event.scores)), key=lambda i: event.scores[i], reverse=True)
    shown = sorted(ranked[:_MOST_CANDIDATES])
    candidates = [{"text": _end(event.texts[i]), "score": event.scores[i]} for i in shown]
    return {"candidates": candidates, "of": len(event.texts)}


def _end(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else "…" + text[1 - _LONGEST_TEXT :]


def streamed_run(
    model: BaseLanguageModel[Any], config: RunnableConfig | None
) -> tuple[RunnableConfig, CallbackManagerForLLMRun]:
    """Predict the run that a chat model's ``stream`` will start but not pass to ``_stream``.

    Returns:
        The config to stream with, and a run with the id and the handlers that it will have.
    """
    config = ensure_config(config)
    # Handlers from the environment are created once, here, and passed on.
    manager = CallbackManager.configure(config.get("callbacks"))
    own = model.callbacks
    local = own.handlers if isinstance(own, BaseCallbackManager) else list(own or ())
    handlers: list[BaseCallbackHandler] = [*manager.handlers]
    handlers += [handler for handler in local if handler not in handlers]
    run_id = config.get("run_id") or uuid7()
    run = CallbackManagerForLLMRun(
        run_id=run_id,
        handlers=handlers,
        inheritable_handlers=manager.inheritable_handlers,
        inheritable_tags=[*manager.inheritable_tags, *config.get("tags", [])],
        inheritable_metadata={**manager.inheritable_metadata, **config.get("metadata", {})},
    )
    return {**config, "run_id": run_id, "callbacks": manager}, run
