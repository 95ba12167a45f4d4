"""What commands share: parsing of options, and errors as one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from w2s_chains.errors import ConfigError, W2SError, shown
from w2s_chains.user_files import parse_yaml, read_text


@contextmanager
def told_errors(remedy: str = "") -> Generator[None]:
    """End the command on an error of ours, with one line on stderr instead of a traceback.

    The exit code is 2 for what a user has to change, 130 for an interrupt, and 1 for the rest.

    Args:
        remedy: What to do after an interrupt.
    """
    try:
        yield
    except W2SError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
    except KeyboardInterrupt as error:
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
