"""Read prompts, or texts with their prompts, from a file: JSON, JSON lines, CSV, or lines."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s_chains.core.slots import is_mapping
from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.user_files import read_text
from w2s_chains.values import is_text

MOST_BYTES = 2**29
"""The most bytes of a file of prompts, half a GiB."""

STDIN = Path("/dev/stdin")
"""The path that stands for standard input, as ``-`` does."""

Found = Iterator[tuple[str, Any]]
"""Lines, values of JSON or rows of a table, each with its place for messages."""


def read_prompts(path: str | Path, field: str = "prompt", limit: int | None = None) -> list[str]:
    """Read prompts, in the order of the file.

    Args:
        path: ``.jsonl``, ``.ndjson`` and ``.jsonlines`` have an object or a string per line;
            ``.json`` has a list of them, or one per line; ``.csv`` and ``.tsv`` have a header; in
            ``.txt``, ``.text``, ``.md`` and a file without a suffix, such as a pipe, each line that
            is not blank is a prompt. ``-`` is standard input: JSON lines if the first line is an
            object, and otherwise a prompt in each line that is not blank.
        field: The field or column that holds the prompt.
        limit: Read only this many prompts, from the start.

    Raises:
        ConfigError: The file is missing, malformed (with the line number), too large, of another
            kind, or has no prompts.
    """
    if Path(path) in (STDIN, Path("-")):
        source = "standard input"
        records = records_in(standard_input(), source, [field])
    else:
        source = str(path)
        records = read_records(path, "prompts", [field])
    found = ((where, _prompt_in(value, where, field)) for where, value in records)
    return checked_prompts(itertools.islice(found, limit), source)


def standard_input() -> str:
    """Read all of standard input as UTF-8, with or without a byte order mark.

    Raises:
        ConfigError: There is none, or it is too large or not UTF-8.
    """
    if sys.stdin is None:
        raise ConfigError("there is no standard input; give a file instead of '-'")
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ConfigError(
            f"standard input has more than {MOST_BYTES:,} bytes, the most that is read; give less"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"standard input:{line}: not UTF-8: {error.reason}; send it as UTF-8"
        ) from error


def read_records(path: str | Path, what: str, fields: Sequence[str]) -> Found:
    """Read a file of the forms of ``read_prompts``.

    Args:
        path: The file.
        what: What it holds, for messages: "prompts".
        fields: The fields that count. None may be there twice, and a table must have one of them.

    Yields:
        For each record its place, and a text, a mapping, or what else a line of JSON has.

    Raises:
        ConfigError: As ``read_prompts`` does.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(
            f"{what} {str(path)!r} have the suffix {suffix!r}, whose form is not known; convert "
            f"and rename the file{did_you_mean(suffix, [name for name in _READERS if name])}"
        )
    text = read_text(path, what, MOST_BYTES)
    yield from _READERS[suffix](text, str(path), fields)


def records_in(text: str, source: str, fields: Sequence[str]) -> Found:
    """Return the records of a stream, which has no suffix: JSON lines if the first is an object."""
    _, first = next(_numbered(text, source), ("", ""))
    return (_json_lines if _is_object(first) else _lines)(text, source, fields)


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


def _lines(text: str, source: str, fields: Sequence[str]) -> Found:
    return _numbered(text, source)


def _lines_of_any_kind(text: str, source: str, fields: Sequence[str]) -> Found:
    """Refuse JSON, which would be sent as it is; nothing but the first line tells its kind."""
    where, first = next(_numbered(text, source), ("", ""))
    if _is_object(first):
        raise ConfigError(
            f"{where}: this looks like JSON, but without a suffix each line is plain text; write "
            "it to a file whose name ends in .jsonl"
        )
    return _numbered(text, source)


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and is_mapping(_parsed(line, ""))
    except ConfigError:
        return False


def _json_lines(text: str, source: str, fields: Sequence[str]) -> Found:
    for where, line in _numbered(text, source):
        yield where, _parsed(line, where, fields)


def _json(text: str, source: str, fields: Sequence[str]) -> Found:
    if not text.lstrip().startswith("["):
        yield from _json_lines(text, source, fields)
        return
    for at, value in enumerate(_parsed(text, source, fields), 1):
        yield f"{source}: item {at}", value


def _parsed(text: str, where: str, fields: Sequence[str] = ()) -> Any:
    """Parse JSON; refuse an object that has one of ``fields`` twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for field in fields:
            if names.count(field) > 1:
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


def _table(text: str, source: str, fields: Sequence[str], delimiter: str = ",") -> Found:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = list(rows.fieldnames or ())
        if text.strip() and not set(fields) & set(columns):
            first = fields[0]
            raise ConfigError(f"{source}:1: no column {first!r}{did_you_mean(first, columns)}")
        for field in fields:
            if columns.count(field) > 1:
                raise ConfigError(
                    f"{source}:1: two columns are called {field!r}; rename one of them"
                )
        for row in rows:
            if None in row or None in row.values():
                raise ConfigError(
                    f"{source}:{rows.line_num}: this row has more or fewer cells than the header's "
                    f"{len(columns)}; put quotes around text with commas"
                )
            yield f"{source}:{rows.line_num}", row
    except csv.Error as error:
        raise ConfigError(f"{source}:{rows.line_num}: broken CSV: {error}") from error


def _tabs(text: str, source: str, fields: Sequence[str]) -> Found:
    return _table(text, source, fields, "\t")


_READERS: Mapping[str, Callable[[str, str, Sequence[str]], Found]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".jsonlines"), _json_lines),
    ".json": _json,
    ".csv": _table,
    ".tsv": _tabs,
    **dict.fromkeys((".txt", ".text", ".md"), _lines),
    "": _lines_of_any_kind,
}
