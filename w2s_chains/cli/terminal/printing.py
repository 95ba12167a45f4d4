"""``Printer`` and ``Told``: answers are printed while they are read."""

from __future__ import annotations

import io
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

from w2s_chains.cli.options import note
from w2s_chains.core.events import Committed, Event, Finished
from w2s_chains.engine.job import Job
from w2s_chains.langchain.chat_models import ChatW2S
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.search.base import SearchStrategy
from w2s_chains.tracing.live import harmless


def tell_late(strategy: SearchStrategy, more: str = "") -> None:
    """Say on a terminal that text will come late, if it will.

    Args:
        strategy: How the answers are searched.
        more: What helps besides.
    """
    if strategy.commits_late and sys.stdout.isatty():
        when = "once all partial answers agree on it" if strategy.scores_partial else "at the end"
        flows = strategy.scores_partial and "commit_after" in type(strategy).model_fields
        remedy = ", strategy.commit_after=2 lets text flow" if flows else ""
        note(f"{strategy.type} prints text {when}{more}{remedy}")


class Printer:
    """Prints answers as they are committed: exactly into files and pipes, harmless on a terminal.

    Thoughts go to stderr, dimmed, and only where that is a terminal.
    """

    def __init__(self) -> None:
        self.terminal, self._tells = sys.stdout.isatty(), sys.stderr.isatty()
        self._thinks = self._open = False
        if isinstance(stdout := cast("Any", sys.stdout), io.TextIOWrapper):
            stdout.reconfigure(errors="backslashreplace")  # its encoding may lack characters

    def text(self, text: str) -> None:
        """Print a piece of an answer."""
        if text:
            if self._thinks:
                print(file=sys.stderr, flush=True)
            self._thinks, self._open = False, True
            print(harmless(text) if self.terminal else text, end="", flush=True)

    def thought(self, text: str) -> None:
        """Print a piece of what the model thinks before it answers."""
        if text and self._tells:
            self._thinks = True
            print(f"\x1b[2m{harmless(text)}\x1b[22m", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line of an answer."""
        self._thinks = self._open = False
        print(flush=True)

    def leave(self) -> None:
        """End the line of an answer that stays incomplete, if someone looks at it."""
        if self.terminal and (self._open or self._thinks):
            self.end()


class Told:
    """One answer while it is read, and printed if someone wants that.

    Attributes:
        thoughts: What the model thought so far.
        text: What it answered so far.
    """

    def __init__(self, model: W2SLLM | ChatW2S, job: Job, printer: Printer | None) -> None:
        chat = isinstance(model, ChatW2S)
        self._reader = model.answer_reader(job.root.prompt) if chat else None
        self._printer = printer
        self.thoughts = self.text = ""

    def read(self, events: Iterable[Event]) -> Finished:
        """Read the events of the answer up to its last one, and return that."""
        for event in events:
            if isinstance(event, Finished):
                if self._reader is not None:
                    self._print(*self._reader.rest()[:2])
                return event
            if isinstance(event, Committed):
                self.add(event.text)
        raise AssertionError("an answer ends with Finished, or with an error")

    def add(self, text: str) -> None:
        """Read a piece of the answer."""
        self._print(*(("", text) if self._reader is None else self._reader.text(text)))

    def _print(self, thought: str, text: str) -> None:
        self.thoughts += thought
        self.text += text
        if self._printer is not None:
            self._printer.thought(thought)
            self._printer.text(text)


def in_order(events: Iterable[tuple[int, Event]]) -> Iterator[Event]:
    """Yield the events of several answers one answer after the other, each as early as it can."""
    waiting: defaultdict[int, deque[Event]] = defaultdict(deque)
    at = 0
    for index, event in events:
        waiting[index].append(event)
        while waiting[at]:
            yield (event := waiting[at].popleft())
            at += isinstance(event, Finished)
