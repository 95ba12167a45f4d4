"""Files that a user names: text within bounds, and YAML that says only what it seems to say.

Some are named by environment variables, and apply to all configs.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from w2s_chains.errors import ConfigError, ModelNotFoundError, did_you_mean, shown
from w2s_chains.values import MAX_DEPTH, refuse_excess

MAX_YAML_BYTES = 16 * 2**20
"""The largest YAML file."""

PATIENCE = 60.0
"""Seconds to wait for the next text of a pipe or another stream."""

MODEL_PATHS = "W2S_MODEL_PATHS"
"""The environment variable that names a YAML file of hub ids and the folders of these models."""

_TRAPS = (
    (re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"), "in base 60"),
    (re.compile(r"[-+]?0[0-7_]+"), "in base 8"),
)
"""What YAML 1.1 takes as a number although nobody means it."""


def read_text(path: str | os.PathLike[str], what: str, max_bytes: int = MAX_YAML_BYTES) -> str:
    """Read a file as UTF-8, with or without a byte order mark; a pipe or a device too.

    Args:
        path: The file.
        what: What it holds, for messages: "config".
        max_bytes: The most bytes that are read.

    Raises:
        ConfigError: It cannot be read, is larger than that, sends nothing for ``PATIENCE`` seconds,
            or is not UTF-8; the message gives the line.
    """
    if not isinstance(cast("object", path), str | os.PathLike):
        raise ConfigError(f"a {what} is a file, not {shown(path)}")
    path = Path(path)
    try:
        data = _read_bytes(path, max_bytes)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise ConfigError(f"cannot read {what} {shown(str(path))}: {error}") from error
    if len(data) > max_bytes:
        raise ConfigError(
            f"cannot read {what} {shown(str(path))}: it has more than {max_bytes:,} bytes, the "
            "most that is read; give a smaller file"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"cannot read {what} {shown(str(path))}: {path}:{line}: not UTF-8: {error.reason}; "
            "save it as UTF-8"
        ) from error


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a file up to one byte more than the limit; never wait for a stream without end."""
    parts: list[bytes] = []
    left = max_bytes + 1
    # Without O_NONBLOCK, opening a pipe into which nobody writes would wait for ever.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        streams = not stat.S_ISREG(status.st_mode)
        while left:
            if streams and not _has_data(file):
                raise TimeoutError(f"nothing was written into it for {PATIENCE:g} s")
            part = os.read(file, min(left, 2**20))
            if not part:
                break
            parts.append(part)
            left -= len(part)
    finally:
        os.close(file)
    return b"".join(parts)


def _has_data(file: int) -> bool:
    """Wait until a stream has data or has ended; return False if it takes too long."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(PATIENCE * 1000))


def read_yaml(
    path: str | os.PathLike[str], what: str, fields: Iterable[str] = ()
) -> tuple[yaml.Node | None, Mapping[Any, Any]]:
    """Read a file that holds a mapping; return the YAML with its line numbers, and the values.

    Args:
        path: The file.
        what: What it holds, for messages: "config".
        fields: What the mapping may have, for the message if it is none.

    Raises:
        ConfigError: It cannot be read, is broken, or no mapping; with file and line.
    """
    tree, values = parse_yaml(read_text(path, what), str(path))
    if not isinstance(values, Mapping):
        hint = did_you_mean("", fields) if fields else f", not {shown(values)}"
        raise ConfigError(f"{path}:1: a {what} is a mapping with sections{hint}")
    return tree, cast("Mapping[Any, Any]", values)


def parse_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """Parse YAML; return it with its line numbers, and its value.

    Raises:
        ConfigError: It is broken, has too much, writes a key twice, or writes a number in a form
            that YAML 1.1 takes for another one, such as 1:30 or 010; the message gives the line.
    """
    try:
        loader: Any = _Loader(text, source)
        tree: yaml.Node | None = loader.get_single_node()
        values = None if tree is None else loader.construct_document(tree)
        refuse_excess(values, source)
        return tree, values
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        problem = " ".join(filter(None, [error.context, error.problem]))
        raise ConfigError(f"{where}: broken YAML: {problem}") from error
    except Exception as error:  # a bad tagged value (!!int "") makes PyYAML raise all kinds
        raise ConfigError(f"{source}: broken YAML: {error}") from error


def line_of(tree: yaml.Node | None, path: Sequence[str]) -> int | None:
    """Return the line where the value at ``path`` is written, or its nearest enclosing one."""
    if tree is None:
        return None
    node, line = tree, tree.start_mark.line + 1
    for step in path:
        if isinstance(node, yaml.SequenceNode):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
            continue
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in reversed(node.value):  # what is merged (<<) stands before the own keys
            if key.value == step:
                node, line = value, key.start_mark.line + 1
                break
        else:
            break
    return line


class _Loader(yaml.SafeLoader):
    """Refuses what YAML 1.1 reads in silence: a key given twice, numbers in base 8 or 60."""

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.source = source
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            line = self._next().start_mark.line + 1
            raise ConfigError(
                f"{self.source}:{line}: broken YAML: more than {MAX_DEPTH} mappings and lists are "
                "inside one another, the most that is read"
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        plain = self._next().implicit[0]
        node = super().compose_scalar_node(anchor)
        for form, base in _TRAPS if plain else ():
            if form.fullmatch(node.value):
                raise ConfigError(
                    f"{self._place(node)}: YAML takes {shown(node.value)} as a number {base}; "
                    "write the number in base 10, or put the text in quotes"
                )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        known: set[tuple[str, Any]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                names: set[tuple[str, Any]] = {("text", key.value)}
                if key.tag != "tag:yaml.org,2002:merge":
                    names.add(
                        ("value", cast("Any", self).construct_object(key))
                    )  # yes and on are both true
                if names & known:
                    raise ConfigError(
                        f"{self._place(key)}: {shown(key.value)} is written twice; keep one of them"
                    )
                known |= names
        return node

    def _next(self) -> Any:
        return cast("Any", self).peek_event()

    def _place(self, node: yaml.Node) -> str:
        return f"{self.source}:{node.start_mark.line + 1}"


def read_user_file(variable: str, what: str) -> tuple[Path, Mapping[str, Any]] | None:
    """Read the YAML file that an environment variable names.

    Args:
        variable: The environment variable.
        what: What the file maps to what, for messages.

    Returns:
        The file's path and its mapping; None if the variable is not set.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
    """
    name = os.environ.get(variable)
    if not name:
        return None
    path = Path(name).expanduser()
    try:
        values: Any = parse_yaml(read_text(path, "file"), str(path))[1]
    except ConfigError as error:
        raise ConfigError(f"{variable} names the file {name!r}: {error}") from error
    found: Mapping[Any, Any] | None = {} if values is None else values
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ConfigError(f"{variable} names the file {name!r}, which must map {what}")
    return path, found


def local_path(model: str) -> str:
    """Return the path that the file named by ``W2S_MODEL_PATHS`` gives for a model, else its name.

    A relative path is relative to the folder of that file.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
        ModelNotFoundError: There is nothing at the path.
    """
    found = read_user_file(MODEL_PATHS, "names of models to their folders")
    if found is None or model not in found[1]:
        return model
    path = found[0].parent / Path(str(found[1][model])).expanduser()
    if not path.exists():
        raise ModelNotFoundError(
            f"model {model!r} is saved at {str(path)!r}, says the file that {MODEL_PATHS} names, "
            "but nothing is there; correct the path, or remove the line to use the hub"
        )
    return str(path)
