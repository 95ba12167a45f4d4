"""Searches of a call, calls of a batch, the progress bar and the metadata of answers."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from functools import partial
from typing import Any, Self, TypeVar

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from tqdm.auto import tqdm
from tqdm.notebook import tqdm_notebook

from w2s_chains.core.events import Committed, Event, Finished, Progressed, Scored
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import PromptTokenizer, Proposer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import fork
from w2s_chains.engine.job import Job
from w2s_chains.engine.scheduler import Engine
from w2s_chains.engine.waiting import EventStream, Listener, listener_of_batch
from w2s_chains.errors import ConfigError, PromptError
from w2s_chains.langchain.tracing import ChunkRuns

T = TypeVar("T")


def checked_jobs(
    job: Callable[..., Job], prompts: Sequence[str | Prompt], seed: int | None, n: int
) -> list[Job]:
    """Build one checked job per answer, ``n`` in a row for each prompt.

    Args:
        job: Builds a job from a ``root`` and a ``seed``.
        prompts: The prompts to answer.
        seed: The seed of each first answer; None draws a new one for every prompt.
        n: Answers per prompt; the prompt is read once for all of them.

    Raises:
        ConfigError: The strategy needs a part that is missing.
        PromptError: A prompt does not fit one of the models, or is no text.
    """
    jobs: list[Job] = []
    for root in map(Hypothesis.root, prompts):
        require_text(root.prompt)
        own = secrets.randbits(63) if seed is None else seed
        jobs.append(job(root=root, seed=own))
        jobs[-1].check()
        jobs += [job(root=root, seed=fork(own, i)) for i in range(1, n)]
    return jobs


def require_text(prompt: Prompt) -> None:
    """Refuse half of a surrogate pair, which is no character and which no tokenizer reads.

    Raises:
        PromptError: The prompt has one.
    """
    parts = [prompt.plain_text, prompt.answer_schema or ""]
    parts += [part for tool in prompt.tools for part in (tool.name, tool.description)]
    parts += [tool.parameters for tool in prompt.tools]
    parts += [message.name or "" for message in prompt.messages]
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError as error:
            around = part[max(error.start - 20, 0) : error.start + 20]
            raise PromptError(
                f"the prompt has {part[error.start]!r} (in {around!r}), half of a surrogate pair "
                "and no character; read the file as UTF-8, or replace it: "
                "text.encode('utf-8', 'replace').decode()"
            ) from error


def counting_tokenizer(proposer: Proposer, name: str) -> PromptTokenizer:
    """Return the tokenizer that counts a proposer's tokens.

    Raises:
        ConfigError: It is not available here.
    """
    tokenizer: PromptTokenizer | None = Proposer.of(proposer).tokenizer
    if tokenizer is None:
        raise ConfigError(
            f"the tokens of {name!r} cannot be counted, since its tokenizer is not known here; set "
            "tokenizer for the proposer (the model's name or folder), or custom_get_token_ids"
        )
    return tokenizer


def tokens_read(proposer: Proposer, prompt: str | Prompt, name: str) -> int:
    """Return the tokens that a proposer reads of a prompt, template and start token included.

    Raises:
        ConfigError: Its tokenizer is not available here.
        PromptError: Its chat template refuses the prompt, or the prompt is no text.
    """
    known = Prompt(text=prompt) if isinstance(prompt, str) else prompt
    require_text(known)
    return len(counting_tokenizer(proposer, name).prompt_ids(known))


class Searches(EventStream):
    """The searches of one call; ``for`` and ``async for`` yield the same items.

    Items are answers and, on request, text as it is committed, each with the index of its job.
    LangChain's handlers are called for scored candidates in between, on the reader's thread or
    event loop.
    """

    def __init__(
        self,
        engine: Engine,
        jobs: Sequence[Job],
        runs: Sequence[BaseRunManager],
        text: bool = False,
        progress: bool = False,
    ) -> None:
        """Prepare the searches without starting them.

        Args:
            engine: Runs the searches.
            jobs: The jobs, grouped by prompt, with the same number for each prompt.
            runs: The LangChain runs of the call, one per prompt, or none.
            text: Whether to yield text as it is committed.
            progress: Whether to show a progress bar.
        """
        self._told = ChunkRuns(runs, answers=len(jobs) // max(len(runs), 1))
        wanted = ((Committed,) if text else ()) + ((Scored,) if self._told else ())
        super().__init__(engine, jobs, wanted)
        self._progress = progress
        self._bar = ExitStack()

    def __enter__(self) -> Self:
        tokens = sum(job.sampling.max_tokens for job in self.jobs)
        title = next((job.strategy.type for job in self.jobs), "")
        self.listener = self._bar.enter_context(progress_bar(self._progress, tokens, title))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._bar.close()

    def __next__(self) -> tuple[int, Committed | Finished]:
        while True:
            index, event = super().__next__()
            if isinstance(event, Committed | Finished):
                return index, event
            if isinstance(event, Scored):
                self._told.tell(index, event)

    async def __anext__(self) -> tuple[int, Committed | Finished]:
        while True:
            index, event = await super().__anext__()
            if isinstance(event, Committed | Finished):
                return index, event
            if isinstance(event, Scored):
                await self._told.tell_async(index, event)


class ClosingInLoop(aclosing[Any]):
    """Close an async generator on leaving, unless its event loop is gone.

    LangChain's streams tell their handlers when they are closed, which needs a loop. One that is
    left without a loop is dropped, and its searches are cancelled with it.
    """

    async def __aexit__(self, *error: object) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        await super().__aexit__(*error)


def by_prompt(found: Iterable[tuple[int, Event]], n: int) -> list[list[Finished]]:
    """Group the answers by prompt, ``n`` for each, in order."""
    done = {index: event for index, event in found if isinstance(event, Finished)}
    flat = [done[index] for index in sorted(done)]
    return [flat[i : i + n] for i in range(0, len(flat), n)]


def answer_info(answer: Finished) -> dict[str, Any]:
    """Return the metadata of an answer."""
    return {
        "score": answer.score,
        "finish_reason": answer.finish_reason,
        "completion_tokens": answer.completion_tokens,
        "prompt_tokens": answer.prompt_tokens,
        "read_tokens": answer.read_tokens,
        "rounds": answer.rounds,
        "proposed_tokens": answer.proposed_tokens,
        "guide_tokens": answer.guide_tokens,
        "guide_flops_ratio": answer.guide_flops_ratio,
        "kl": answer.kl,
    }


def calls_of(
    call: Callable[..., T],
    inputs: Sequence[LanguageModelInput],
    config: RunnableConfig | list[RunnableConfig] | None,
    options: Mapping[str, Any],
) -> tuple[list[Callable[[], T]], int | None]:
    """Return one call per input with its own config, and the limit of concurrent calls."""
    configs = get_config_list(config, len(inputs))
    calls = [partial(call, *row, **options) for row in zip(inputs, configs, strict=True)]
    return [*calls], configs[0].get("max_concurrency") if configs else None


def bar_of(total: int, title: str, unit: str, shown: bool = True) -> tqdm[Any]:
    """Return a progress bar that draws on a terminal and in a notebook, and nowhere else.

    Args:
        total: What it counts to.
        title: What stands before it.
        unit: What it counts, in the plural.
        shown: Whether it draws at all.
    """
    draws = shown and total > 0 and (issubclass(tqdm, tqdm_notebook) or sys.stderr.isatty())
    large = total >= 100_000
    return tqdm(total=total, desc=title, unit=f" {unit}", unit_scale=large, disable=not draws)


@contextmanager
def progress_bar(shown: bool, tokens: int, title: str) -> Generator[Listener | None]:
    """Show a bar that counts tokens, since the answers of a batch end together.

    Yields the listener that moves the bar. A call in a batch moves the bar of its batch instead.
    """
    if not shown:
        yield None
    elif (listener := listener_of_batch()) is not None:
        yield listener
    else:
        with bar_of(tokens, title, "tokens") as bar:

            def listen(event: Event) -> None:
                if isinstance(event, Progressed):
                    bar.update(event.tokens)

            yield listen


def usage_of(answer: Finished) -> UsageMetadata:
    """Return the tokens of prompt and answer as LangChain counts them."""
    read, written = answer.prompt_tokens, answer.completion_tokens or 0
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def thoughts_of(text: str) -> dict[str, Any]:
    """Return thoughts where LangChain looks for them (``AIMessage.content_blocks``)."""
    return {"reasoning_content": text} if text else {}
