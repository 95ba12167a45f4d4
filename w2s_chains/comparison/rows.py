"""The rows of a comparison, and how to keep them in files that survive a crash."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Generic, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from w2s_chains.core.configs import Checked
from w2s_chains.core.sampling import Seed
from w2s_chains.errors import ConfigError, W2SError, shown

T = TypeVar("T", bound=BaseModel)


class Key(NamedTuple):
    """Names one answer of a comparison; ``place`` is the row's ``index``."""

    config: str
    seed: int
    place: int


Count = Annotated[int, Field(ge=0, lt=2**63)]


class _AboutAnswer(Checked):
    """A record about one answer: its config, seed, and the prompt's place in the file."""

    config: str
    seed: Seed
    index: Count

    @property
    def key(self) -> Key:
        return Key(self.config, self.seed, self.index)


class Row(_AboutAnswer):
    """One answer.

    Attributes:
        config: Name of the config.
        seed: Seed of the search.
        index: The prompt's place in the file, from 0.
        prompt: The prompt.
        text: The answer; None if there is none, and ``errors["answer"]`` says why.
        guide_score: The answer's score under the config's scorer.
        loglikelihood: Log-probability per token under the config's proposer, in nats; None if the
            proposer is not a local model.
        kl: Its mean over answers estimates KL(config || frozen model), in nats; see ``Finished``.
        rewards: One value per reward; None if it failed, and ``errors`` says why.
        read_tokens: Rows that the proposer read to grow the tree, in all branches: the cost; None
            in rows of older versions and from proposers that do not count them.
        rounds: Number of ``Expand`` asks, one after another; None in rows of older versions.
        proposed_tokens: Candidates considered: tokens sampled by the proposer, in all branches.
        guide_tokens: Rows that both guides read together, prompt included. Older versions counted
            the tokens of each candidate, even if siblings shared a reading.
        guide_flops_ratio: Estimated FLOPs of the guides divided by the proposer's; None if the size
            of a model is unknown.
        completion_tokens: Tokens of the answer.
        finish_reason: "eos", "stop" or "length".
        seconds: Wall time of the batch, divided by its answers.
        errors: What went wrong, by reward; "answer" if there is no answer.
    """

    prompt: str
    text: str | None = None
    guide_score: float | None = None
    loglikelihood: float | None = None
    kl: float | None = None
    rewards: dict[str, float | None] = Field(default_factory=dict)
    read_tokens: Count | None = None
    rounds: Count | None = None
    proposed_tokens: Count = 0
    guide_tokens: Count = 0
    guide_flops_ratio: float | None = None
    completion_tokens: Count | None = None
    finish_reason: str | None = None
    seconds: float = 0.0
    errors: dict[str, str] = Field(default_factory=dict)


class Judgement(_AboutAnswer):
    """One reward's value for one answer, kept in a file of its own until it is in the row."""

    reward: str
    value: float | None = None
    error: str | None = None


def with_judgements(row: Row, judgements: Iterable[Judgement]) -> Row:
    """Return the row with these judgements in it."""
    rewards, errors = dict(row.rewards), dict(row.errors)
    for judgement in judgements:
        rewards[judgement.reward] = judgement.value
        errors.pop(judgement.reward, None)
        if judgement.error is not None:
            errors[judgement.reward] = judgement.error
    return row.model_copy(update={"rewards": rewards, "errors": errors})


class JsonLines(Generic[T]):
    """A file of JSON lines; records that were added survive a crash.

    Records are written and flushed to the disk together. A process that is killed meanwhile may
    leave part of a line at the end, which is removed when the file is read.
    """

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path = path
        self.kind = kind

    def read(self) -> list[T]:
        """Read all records; remove an unfinished one at the end.

        Raises:
            ConfigError: A line is not such a record.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"cannot read {str(self.path)!r}: {error}") from error
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        records: list[T] = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                records.append(self.kind.model_validate_json(line))
            except ValidationError as error:
                raise ConfigError(
                    f"{self.path}:{number}: not a {self.kind.__name__.lower()} of a comparison; "
                    "remove the line, or use another folder"
                ) from error
        return records

    def append(self, records: Iterable[T]) -> None:
        """Add records.

        Raises:
            W2SError: They cannot be written, perhaps because the disk is full; the file keeps its
                earlier records.
        """
        data = as_lines(records)
        if not data:
            return
        try:
            with self.path.open("ab", buffering=0) as file:
                size = file.tell()
                try:
                    _write(file, data)
                except OSError:
                    os.truncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def rewrite(self, records: Iterable[T]) -> None:
        """Replace the file in one step.

        Raises:
            W2SError: It cannot be written; the old file stays.
        """
        write_file(self.path, as_lines(records))


def as_lines(records: Iterable[BaseModel]) -> bytes:
    """Write records as JSON lines."""
    lines = (json.dumps(r.model_dump(mode="json"), ensure_ascii=False) + "\n" for r in records)
    return "".join(lines).encode("utf-8", "replace")  # a part's own text may be broken


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one step: at any time it is the old one or the new one.

    Raises:
        W2SError: It cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb", buffering=0) as file:
            _write(file, data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def _write(file: FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def cannot_write(path: Path, error: OSError) -> W2SError:
    """Make the error to raise if a file cannot be written."""
    return W2SError(
        f"cannot write {str(path)!r}: {error.strerror or error}; what was finished is kept; make "
        "room there and run the same command again, it goes on from there"
    )


def latest(rows: Iterable[Row]) -> dict[Key, Row]:
    """Return the rows by key; the later of two rows for one answer counts."""
    return {row.key: row for row in rows}


def group_judgements(judgements: Iterable[Judgement]) -> Mapping[Key, list[Judgement]]:
    """Return the judgements of each answer."""
    grouped: dict[Key, list[Judgement]] = {}
    for judgement in judgements:
        grouped.setdefault(judgement.key, []).append(judgement)
    return grouped


def in_order(rows: Iterable[Row], configs: Iterable[str]) -> list[Row]:
    """Sort rows: configs in this order and others after them, then seeds, then prompts."""
    place = {name: i for i, name in enumerate(configs)}

    def order(row: Row) -> tuple[int, Key]:
        return place.get(row.config, len(place)), row.key

    return sorted(rows, key=order)


def write_alpaca_eval(folder: Path, rows: Iterable[Row]) -> list[Path]:
    """Write the answers as ``alpaca_eval`` reads them: one JSON file per config and seed.

    Prompts without an answer are left out, so that nobody mistakes an error for an answer.

    Args:
        folder: The folder to write to; made if necessary.
        rows: Rows of any configs and seeds.

    Returns:
        The files.
    """
    files: dict[tuple[str, int], list[dict[str, str]]] = {}
    for row in rows:
        if row.text is not None:
            files.setdefault((row.config, row.seed), []).append(
                {"instruction": row.prompt, "output": row.text, "generator": row.config}
            )
    paths: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for (config, seed), outputs in files.items():
        name = re.sub(r"[^\w.+-]+", "-", config).strip("-")
        data = json.dumps(outputs, ensure_ascii=False, indent=2) + "\n"
        paths.append(folder / f"{name}-seed{seed}.json")
        write_file(paths[-1], data.encode())
    return paths


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Make the folder, and lock it against other comparisons."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", blocking=False):
            yield
    except W2SError:
        raise
    except Timeout as error:
        raise ConfigError(
            f"another comparison is running in {str(folder)!r}; wait for it, or use another folder"
        ) from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    except ValueError as error:  # a path with a null character
        raise ConfigError(f"cannot write {shown(str(folder))}: {error}") from error
