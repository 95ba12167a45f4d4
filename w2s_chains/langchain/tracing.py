"""What a search chooses from, told to LangChain's callbacks: a child run for every chunk.

A tracer shows these runs below the model's own run, LangSmith too, and ``astream_events`` gives
them as ``on_chain_start`` and ``on_chain_end``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
)
from langchain_core.callbacks.manager import BaseRunManager, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from w2s_chains.core.events import Scored

NAME = "w2s_chunk"
_MOST_CANDIDATES = 16
_LONGEST_TEXT = 200

_runs: ContextVar[Sequence[BaseRunManager]] = ContextVar("runs", default=())


@contextmanager
def known_runs(runs: Sequence[BaseRunManager]) -> Generator[None]:
    """Hands runs to a model's own methods where LangChain does not pass all of them."""
    token = _runs.set(runs)
    try:
        yield
    finally:
        _runs.reset(token)


def current_runs() -> Sequence[BaseRunManager]:
    """The runs of the call under way, one per prompt; none if it was made in another way."""
    return _runs.get()


class ChunkRuns:
    """The child runs of one run of a model; events come from the engine, calls are ours."""

    def __init__(self, run: BaseRunManager | None) -> None:
        self._run = run
        self._steps: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        run = self._run
        return run is not None and any(not h.ignore_chain for h in run.handlers)

    def tell(self, answer: int, event: Scored) -> None:
        """Call the handlers of a synchronous run.

        Args:
            answer: Which of the answers to this prompt.
            event: The candidates of one step.
        """
        if self:
            manager = CallbackManager(**self._inherited())
            child = manager.on_chain_start(None, self._inputs(answer), name=NAME)
            child.on_chain_end(_candidates(event))

    async def atell(self, answer: int, event: Scored) -> None:
        """Call the handlers of an asynchronous run."""
        if self:
            manager = AsyncCallbackManager(**self._inherited())
            child = await manager.on_chain_start(None, self._inputs(answer), name=NAME)
            await child.on_chain_end(_candidates(event))

    def _inherited(self) -> dict[str, Any]:
        run = self._run
        assert run is not None
        return {
            "handlers": run.handlers,
            "inheritable_handlers": run.inheritable_handlers,
            "parent_run_id": run.run_id,
            "tags": run.inheritable_tags,
            "inheritable_tags": run.inheritable_tags,
            "metadata": run.inheritable_metadata,
            "inheritable_metadata": run.inheritable_metadata,
        }

    def _inputs(self, answer: int) -> dict[str, int]:
        step = self._steps[answer] = self._steps.get(answer, -1) + 1
        return {"answer": answer, "step": step}


def _candidates(event: Scored) -> dict[str, Any]:
    """The best candidates, in the order of the search, each with the end of its text."""
    ranked = sorted(range(len(event.scores)), key=lambda i: event.scores[i], reverse=True)
    shown = sorted(ranked[:_MOST_CANDIDATES])
    candidates = [{"text": _end(event.texts[i]), "score": event.scores[i]} for i in shown]
    return {"candidates": candidates, "of": len(event.texts)}


def _end(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else "…" + text[1 - _LONGEST_TEXT :]


def streamed_run(
    model: BaseLanguageModel[Any], config: RunnableConfig | None
) -> tuple[RunnableConfig, CallbackManagerForLLMRun]:
    """The run that a chat model's ``stream`` is about to start: it tells ``_stream`` nothing of it.

    Returns:
        The config to stream with, and the run with the id and the handlers that it will have.
    """
    config = ensure_config(config)
    # Handlers that come from the environment are made here, once, and handed on.
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
