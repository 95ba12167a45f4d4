"""``Answers``: answer one prompt, those that someone types, or those of a pipe."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.live import Live

from w2s_chains.cli.options import note
from w2s_chains.cli.terminal.printing import Printer, Told, in_order, tell_late
from w2s_chains.cli.terminal.prompts import ahead, stdin_lines, typed_lines
from w2s_chains.core.events import Event
from w2s_chains.engine.job import Job
from w2s_chains.engine.waiting import EventStream
from w2s_chains.errors import PromptError, W2SError
from w2s_chains.langchain.chat_models import ChatW2S
from w2s_chains.langchain.generation import answer_info
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.langchain.tracing import TracedSearch
from w2s_chains.tracing.live import LiveSearch

SEPARATOR = "---"
"""Stands between several answers."""


class Answers:
    """Answers prompts; the arguments are those of ``run``."""

    def __init__(
        self,
        model: W2SLLM | ChatW2S,
        *,
        system: str | None = None,
        as_json: bool = False,
        show: bool = False,
        trace: Path | None = None,
    ) -> None:
        self._model, self._system = model, system
        self._json, self._show, self._trace = as_json, show, trace
        self._printer = Printer()
        if not (show or as_json):
            tell_late(model.strategy, "; --show draws candidates meanwhile")
        self._several = False

    def one(self, prompt: str) -> None:
        """Answer a prompt."""
        with self._begun(prompt) as search:
            self._print(prompt, search)

    def typed(self) -> None:
        """Answer the prompts that someone types; an error or an interrupt ends one answer."""
        for prompt in typed_lines("> "):
            try:
                self.one(prompt)
            except W2SError as error:
                print(f"Error: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                note("Stopped")
            self._several = False

    def piped(self) -> None:
        """Answer the lines of stdin in their order; later ones are begun ahead."""
        searches = ahead(stdin_lines(), self._begun, self._model.engine.max_live)
        with closing(searches):
            for prompt, search in searches:
                self._print(prompt, search)
        if not self._several:
            raise PromptError("there is no prompt; stdin has no line with text")

    def _begun(self, prompt: str) -> EventStream:
        input: Any = prompt
        if self._system is not None:
            input = [("system", self._system), ("human", prompt)]
        if self._show or self._trace:
            return self._model.traced(input)
        return self._model.committed(input)

    def _print(self, prompt: str, search: EventStream) -> None:
        """Print the answers of a search that was begun."""
        try:
            with self._drawn(search) as events:
                ordered = in_order(events)
                for job in search.jobs:
                    self._answer(prompt, job, ordered)
        finally:
            self._printer.leave()
            if self._trace is not None:
                cast("TracedSearch", search).builder.trace().save(self._trace)

    def _answer(self, prompt: str, job: Job, events: Iterator[Event]) -> None:
        """Print the next answer."""
        if self._several and not self._json:
            print(SEPARATOR)
        self._several = True
        told = Told(self._model, job, None if self._json else self._printer)
        finished = told.read(events)
        if not self._json:
            self._printer.end()
            return
        values = {"prompt": prompt, "text": told.text, "seed": job.seed, **answer_info(finished)}
        values |= {"thoughts": told.thoughts} if told.thoughts else {}
        print(json.dumps({name: _finite(value) for name, value in values.items()}), flush=True)

    @contextmanager
    def _drawn(self, search: EventStream) -> Generator[Iterable[tuple[int, Event]]]:
        """Draw the search while its events are read, if that is wanted."""
        if not self._show:
            yield search
            return
        view = LiveSearch(search.jobs[0].strategy.type)
        live = Live(view, console=Console(stderr=True), transient=True, redirect_stdout=False)
        if not self._printer.terminal:
            with live:
                yield view.seen(search)
        else:  # what is printed on the same terminal would tear the picture
            try:
                with live:
                    events = [*view.seen(search)]
            except BaseException:
                if not self._json:
                    Told(self._model, search.jobs[0], self._printer).add(view.committed)
                raise
            yield events
        note(view.summary)


def _finite(value: Any) -> Any:
    """Return a value that JSON has a form for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
