"""Read prompts from a file: JSON lines, CSV, or one per line."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from w2s_chains.errors import ConfigError, did_you_mean


def read_prompts(path: str | Path, field: str = "prompt", limit: int | None = None) -> list[str]:
    """Read prompts, in the order of the file.

    Args:
        path: ``.jsonl`` has an object or a string per line; ``.csv`` and ``.tsv`` have a header;
            in any other file each line that is not blank is a prompt.
        field: The field or column that holds the prompt.
        limit: Read only this many prompts, from the start.

    Raises:
        ConfigError: The file is missing, malformed (with the line number), or has no prompts.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8: {error.reason}; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read prompts {str(path)!r}: {error}") from error
    readers = {".jsonl": _json_lines, ".csv": _table, ".tsv": _table}
    found = readers.get(path.suffix.lower(), _lines)(text, path, field)
    numbered = ((f"{path}:{line}", prompt) for line, prompt in found)
    return checked_prompts(itertools.islice(numbered, limit), str(path))


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
                f"{where}: a prompt must be text that is not blank, but this one is {prompt!r}"
            )
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"{where}: half a surrogate pair, which is not a character: {prompt!r}"
            ) from error
        prompts.append(prompt)
    if not prompts:
        raise ConfigError(f"there are no prompts in {source}; give at least one")
    return prompts


def _lines(text: str, _path: Path, _field: str) -> Iterator[tuple[int, Any]]:
    # Not splitlines: a prompt, or a JSON string, may hold U+2028 and the like.
    for line, prompt in enumerate(text.split("\n"), 1):
        if prompt.strip():
            yield line, prompt.removesuffix("\r")


def _json_lines(text: str, path: Path, field: str) -> Iterator[tuple[int, Any]]:
    for line, source in _lines(text, path, field):
        value: dict[str, Any] | list[Any] | str | float | None
        try:
            value = json.loads(source)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}:{line}: broken JSON: {error.msg}") from error
        if isinstance(value, dict):
            if field not in value:
                raise ConfigError(f"{path}:{line}: no field {field!r}{did_you_mean(field, value)}")
            value = value[field]
        yield line, value


def _table(text: str, path: Path, field: str) -> Iterator[tuple[int, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = rows.fieldnames or ()
        if field not in columns and text.strip():
            raise ConfigError(f"{path}:1: no column {field!r}{did_you_mean(field, columns)}")
        for row in rows:
            if None in row or None in row.values():
                raise ConfigError(
                    f"{path}:{rows.line_num}: this row has more or fewer cells than the header's "
                    f"{len(columns)}; put quotes around text with commas"
                )
            yield rows.line_num, row[field]
    except csv.Error as error:
        raise ConfigError(f"{path}:{rows.line_num}: broken CSV: {error}") from error
