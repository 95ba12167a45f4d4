"""``Conversation``: a chat in a terminal or through a pipe, and its commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from w2s_chains.cli.options import check_trace_file, load_model, note
from w2s_chains.cli.terminal.printing import Printer, Told, tell_late
from w2s_chains.cli.terminal.prompts import is_typed, stdin_lines, typed_lines
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.errors import ConfigError, PromptError, W2SError, did_you_mean, shown
from w2s_chains.langchain.chat_models import ChatW2S
from w2s_chains.langchain.load import built
from w2s_chains.langchain.tracing import TracedSearch

PLAIN = "{prompt}"
"""The template that changes nothing."""


class Conversation:
    """A conversation, which is kept whole; what the models read of it is as much as fits."""

    def __init__(
        self, path: Path, changes: Sequence[str], config: W2SConfig, system: str | None
    ) -> None:
        """Load the models; raises like ``load``.

        Args:
            path: The file of the config.
            changes: What the command line changes about it.
            config: The config with the changes, of type "chat".
            system: What the system message says.
        """
        _check_single(config)
        self._path, self._changes, self._config = path, [*changes], config
        self._model = cast("ChatW2S", load_model(config))
        self._system = [] if system is None else [("system", system)]
        if getattr(config.proposer, "template", PLAIN) != PLAIN:
            note("The proposer's template is for single prompts; a conversation is read without it")
        self._turns: list[tuple[str, str]] = []
        self._left_out = 0
        self._search: TracedSearch | None = None
        self._printer = Printer()
        self._over = False
        self._commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "reset": ("begin anew", self._reset),
            "undo": ("take back the last turn and its answer", self._undo),
            "set": ("PATH=VALUE: change a field of the config, as --set does", self._set),
            "save": ("FILE: write the conversation, as JSON", self._save),
            "trace": ("FILE: write the tree of the last answer, .html or .json", self._trace),
            "help": ("show this", self._help),
            "quit": ("end, as Ctrl-D does", self._quit),
        }

    def hold(self) -> None:
        """Answer turns until they end; an error ends what comes from a pipe."""
        terminal = is_typed()
        if terminal:
            tell_late(self._config.strategy)
            note("Ctrl-C stops an answer, Ctrl-D ends, /help lists commands")
        turns = self._typed() if terminal else (line for _, line in stdin_lines())
        for turn in turns:
            try:
                if turn.startswith("/") and not turn.startswith("//"):
                    self._command(turn[1:])
                else:
                    self._answer(turn.removeprefix("/"))
            except W2SError as error:
                if not terminal:
                    raise
                print(f"Error: {error}", file=sys.stderr)
            if self._over:
                return

    def _typed(self) -> Iterator[str]:
        while True:
            try:
                yield from typed_lines("> ")
                return
            except KeyboardInterrupt:
                note("\nCtrl-D ends")

    def _answer(self, turn: str) -> None:
        """Answer a turn, and print the answer.

        Raises:
            W2SError: The turn cannot be answered, and is taken back.
        """
        self._turns.append(("human", turn))
        told: Told | None = None
        try:
            self._search = search = self._fitting()
            told = Told(self._model, search.jobs[0], self._printer)
            with search:
                told.read(event for _, event in search)
            self._printer.end()
        except KeyboardInterrupt:
            self._printer.leave()
            kept = told is not None and told.text.strip()
            note("Stopped; the answer so far is kept" if kept else "Stopped; the turn is forgotten")
            if not kept:
                del self._turns[-1]
                return
        except BaseException:
            self._printer.leave()
            del self._turns[-1]
            raise
        assert told is not None
        self._turns.append(("ai", told.text))

    def _fitting(self) -> TracedSearch:
        """Return the search for the last turn, with as much before it as the models can read.

        Raises:
            PromptError: Not even the turn alone fits.
        """
        left_out = self._left_out
        while True:
            try:
                search = self._model.traced([*self._system, *self._turns[left_out:]])
            except PromptError:
                if left_out + 2 >= len(self._turns):
                    raise
                left_out += 2
                continue
            if left_out > self._left_out:
                note(
                    f"The conversation no longer fits; the models do not see its first {left_out} "
                    "messages any more"
                )
            self._left_out = left_out
            return search

    # Commands.

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        if name not in self._commands:
            names = [f"/{known}" for known in self._commands]
            raise ConfigError(
                f"there is no command {shown('/' + name)}{did_you_mean('/' + name, names)}; a turn "
                "that begins with / is written with //"
            )
        self._commands[name][1](argument.strip())

    def _help(self, _: str) -> None:
        for name, (what, _command) in self._commands.items():
            print(f"/{name:<6} {what}", file=sys.stderr)

    def _quit(self, _: str) -> None:
        self._over = True

    def _reset(self, _: str) -> None:
        self._turns.clear()
        self._left_out = 0

    def _undo(self, _: str) -> None:
        if not self._turns:
            raise ConfigError("there is nothing to take back")
        note(f"Took back {shown(self._turns[-2][1])}")
        del self._turns[-2:]
        self._left_out = min(self._left_out, len(self._turns))

    def _set(self, change: str) -> None:
        changes = [*self._changes, change]
        config = load_config(self._path, "chat", changes)
        _check_single(config)
        for section in ("type", "proposer", "guides", "scorer"):
            if getattr(config, section) != getattr(self._config, section):
                raise ConfigError(
                    f"{section} stays as it was loaded; end, and begin with --set {change}"
                )
        old = self._model
        parts = {"proposer": old.proposer, "guides": old.guides, "scorer": old.scorer}
        self._model = cast("ChatW2S", built(config, **parts))
        self._changes, self._config = changes, config

    def _save(self, file: str) -> None:
        roles = {"system": "system", "human": "user", "ai": "assistant"}
        messages = [
            {"role": roles[role], "content": text} for role, text in [*self._system, *self._turns]
        ]
        path = _named(file, "/save chat.json")
        try:
            path.write_text(
                json.dumps(messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise ConfigError(f"cannot write the conversation to {file!r}: {error}") from error
        note(f"Wrote {path}")

    def _trace(self, file: str) -> None:
        path = _named(file, "/trace tree.html")
        check_trace_file(path)
        if self._search is None:
            raise ConfigError("there is no answer yet whose tree could be written")
        self._search.builder.trace().save(path)
        note(f"Wrote {path}")


def _named(file: str, example: str) -> Path:
    if not file:
        raise ConfigError(f"the name of a file is missing; write {example}")
    return Path(file)


def _check_single(config: W2SConfig) -> None:
    if config.generation.n > 1:
        raise ConfigError(
            f"a conversation goes on from one answer, and generation.n is {config.generation.n}; "
            "set it to 1"
        )
