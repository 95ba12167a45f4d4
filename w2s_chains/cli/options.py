"""What commands share: options, errors and warnings as one line, and what comes before work."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from w2s_chains.errors import ConfigError, W2SError, shown
from w2s_chains.user_files import parse_yaml, read_text

if TYPE_CHECKING:
    from w2s_chains.config.sections import W2SConfig
    from w2s_chains.langchain.chat_models import ChatW2S
    from w2s_chains.langchain.llms import W2SLLM


@contextmanager
def told_errors(remedy: str = "") -> Generator[None]:
    """End the command on an error of ours, with one line on stderr instead of a traceback.

    Warnings are one line, too. The exit code is 2 for what a user has to change, 130 for an
    interrupt, and 1 for the rest.

    Args:
        remedy: What to do after an interrupt.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell
            yield
    except W2SError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
    except KeyboardInterrupt as error:
        # The engine ends its step first; who asks again does not wait for that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print(f"Interrupted; {remedy}" if remedy else "Interrupted", file=sys.stderr)
        raise typer.Exit(130) from error


@contextmanager
def told_news(logger: str) -> Generator[None]:
    """Show what a logger tells, one line each on stderr, as long as the command runs."""
    handler = logging.StreamHandler(sys.stderr)
    source = logging.getLogger(logger)
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.removeHandler(handler)
        source.setLevel(level)


def tell_to_type(prompts: Path | None) -> None:
    """Say that the prompts are awaited, if they come from somebody's keyboard."""
    if str(prompts) == "-" and sys.stdin.isatty():
        print("Type a prompt per line, and Ctrl-D after the last one.", file=sys.stderr)


def _tell(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    print(f"Warning: {message}", file=sys.stderr)


def given(values: list[str] | None, role: str) -> Any:
    """Parse the values of an option: return a list, or a mapping if a file gives names.

    Raises:
        ConfigError: One is broken YAML, or two have the same name.
    """
    if not values:
        return None
    listed: list[Any] = []
    named: dict[str, Any] = {}
    for value in values:
        is_file = Path(value).suffix in (".yaml", ".yml")
        text = read_text(value, role) if is_file else value
        try:
            parsed: Any = parse_yaml(text, value if is_file else f"--{role}")[1]
        except ConfigError as error:
            raise ConfigError(f"{shown(value)} is not YAML that can be used: {error}") from error
        if isinstance(parsed, list):
            listed += parsed
        elif isinstance(parsed, dict) and "type" not in parsed and is_file:
            if twice := sorted(map(str, named.keys() & parsed.keys())):
                raise ConfigError(f"two of --{role} are called {twice[0]!r}; rename one")
            named |= parsed
        else:
            listed.append(parsed)
    if named and listed:
        raise ConfigError(f"give each {role} a name, or none of them")
    return named or listed


def load_model(config: W2SConfig) -> W2SLLM | ChatW2S:
    """Load the models of a config, and tell on a terminal which ones; raises like ``load``."""
    names = dict.fromkeys(spec.model for spec in config.models())
    if names:
        note(f"Loading {', '.join(names)}")
    from w2s_chains.langchain.load import built  # brings torch, which takes seconds

    return built(config)


def check_trace_file(path: Path) -> None:
    """Refuse, before any work, a file that no trace could be written to.

    Raises:
        ConfigError: Its name ends otherwise than a trace's, or it cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm", ".json"):
        raise ConfigError(f"a trace is written as .html or .json, but the file is {str(path)!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"cannot write the trace to {str(path)!r}: there is no such folder")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot write the trace to {str(path)!r}: it is not writable")


def note(text: str) -> None:
    """Say something on stderr if that is a terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)
