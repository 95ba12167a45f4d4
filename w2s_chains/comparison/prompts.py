"""Read prompts from a file: JSON, JSON lines, CSV, or one per line."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from w2s_chains.core.slots import is_mapping
from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.user_files import read_text
from w2s_chains.values import is_text

MOST_BYTES = 2**29
"""The most bytes of a file of prompts, half a GiB."""

Found = Iterator[tuple[str, Any]]
"""Prompts, each with its place for messages."""


def read_prompts(path: str | Path, field: str = "prompt", limit: int | None = None) -> list[str]:
    """Read prompts, in the order of the file.

    Args:
        path: ``.jsonl``, ``.ndjson`` and ``.jsonlines`` have an object or a string per line;
            ``.json`` has a list of them, or one per line; ``.csv`` and ``.tsv`` have a header; in
            ``.txt``, ``.text``, ``.md`` and a file without a suffix, such as a pipe, each line that
            is not blank is a prompt.
        field: The field or column that holds the prompt.
        limit: Read only this many prompts, from the start.

    Raises:
        ConfigError: The file is missing, malformed (with the line number), too large, of another
            kind, or has no prompts.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(
            f"prompts {str(path)!r} have the suffix {suffix!r}, whose form is not known; convert "
            f"and rename the file{did_you_mean(suffix, [name for name in _READERS if name])}"
        )
    text = read_text(path, "prompts", MOST_BYTES)
    found = _READERS[suffix](text, str(path), field)
    return checked_prompts(itertools.islice(found, limit), str(path))


def checked_prompts(found: Iterable[tuple[str, Any]], source: str) -> list[str]:
    """Check that there are prompts, and that each is text.

    Args:
        found: Each prompt with its place, for messages.
        source: The place of all of them, for messages.

    Raises:
        ConfigError: There are none, or one is blank or not text.
    """
    prompts: list[str] = []
    for where, prompt in found:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigError(
                f"{where}: a prompt must be text that is not blank, but this one is {shown(prompt)}"
            )
        if not is_text(prompt):
            raise ConfigError(
                f"{where}: half a surrogate pair, which is not a character: {shown(prompt)}"
            )
        prompts.append(prompt)
    if not prompts:
        raise ConfigError(f"there are no prompts in {source}; give at least one")
    return prompts


def _numbered(text: str, source: str) -> Iterator[tuple[str, str]]:
    # Not splitlines: a prompt, or a JSON string, may hold U+2028 and the like.
    for line, prompt in enumerate(text.split("\n"), 1):
        if prompt.strip():
            yield f"{source}:{line}", prompt.removesuffix("\r")


def _lines(text: str, source: str, field: str) -> Found:
    return _numbered(text, source)


def _lines_of_any_kind(text: str, source: str, field: str) -> Found:
    """Refuse JSON, which would be sent as it is; nothing but the first line tells its kind."""
    where, first = next(_numbered(text, source), ("", ""))
    if first.lstrip().startswith("{"):
        try:
            _parsed(first, where)
        except ConfigError:
            pass
        else:
            raise ConfigError(
                f"{where}: this looks like JSON, but without a suffix each line is a prompt; write "
                "it to a file whose name ends in .jsonl"
            )
    return _numbered(text, source)


def _json_lines(text: str, source: str, field: str) -> Found:
    for where, line in _numbered(text, source):
        yield where, _prompt_in(_parsed(line, where, field), where, field)


def _json(text: str, source: str, field: str) -> Found:
    if not text.lstrip().startswith("["):
        yield from _json_lines(text, source, field)
        return
    for at, value in enumerate(_parsed(text, source, field), 1):
        where = f"{source}: item {at}"
        yield where, _prompt_in(value, where, field)


def _parsed(text: str, where: str, field: str | None = None) -> Any:
    """Parse JSON; refuse an object that has ``field`` twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if sum(name == field for name, _ in pairs) > 1:
            raise ConfigError(f"{where}: {field!r} is written twice; keep one of them")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        line = f" in line {error.lineno}" if error.lineno > 1 else ""
        raise ConfigError(f"{where}: broken JSON{line}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer too long, or nested too deeply
        raise ConfigError(f"{where}: broken JSON: {error}") from error


def _prompt_in(value: object, where: str, field: str) -> object:
    if not is_mapping(value):
        return value
    if field not in value:
        raise ConfigError(f"{where}: no field {field!r}{did_you_mean(field, value)}")
    return value[field]


def _table(text: str, source: str, field: str, delimiter: str = ",") -> Found:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = list(rows.fieldnames or ())
        if field not in columns and text.strip():
            raise ConfigError(f"{source}:1: no column {field!r}{did_you_mean(field, columns)}")
        if columns.count(field) > 1:
            raise ConfigError(f"{source}:1: two columns are called {field!r}; rename one of them")
        for row in rows:
            if None in row or None in row.values():
                raise ConfigError(
                    f"{source}:{rows.line_num}: this row has more or fewer cells than the header's "
                    f"{len(columns)}; put quotes around text with commas"
                )
            yield f"{source}:{rows.line_num}", row[field]
    except csv.Error as error:
        raise ConfigError(f"{source}:{rows.line_num}: broken CSV: {error}") from error


def _tabs(text: str, source: str, field: str) -> Found:
    return _table(text, source, field, "\t")


_READERS: Mapping[str, Callable[[str, str, str], Found]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), _json_lines),
    ".json": _json,
    ".csv": _table,
    ".tsv": _tabs,
    **dict.fromkeys((".txt", ".text", ".md"), _lines),
    "": _lines_of_any_kind,
}
