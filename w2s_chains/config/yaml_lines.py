"""YAML that remembers its line numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from w2s_chains.core.slots import is_mapping
from w2s_chains.errors import ConfigError, did_you_mean


def read_yaml(path: Path, fields: Iterable[str]) -> tuple[yaml.Node | None, Mapping[str, Any]]:
    """A file that holds a mapping: the YAML with its line numbers, and its values.

    Args:
        path: The file.
        fields: What the mapping may have; for the message if it is none.

    Raises:
        ConfigError: It cannot be read, is broken, or no mapping; with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read config {str(path)!r}: {error}") from error
    tree, values = parse_yaml(text, str(path))
    if not is_mapping(values):
        hint = did_you_mean("", fields)
        raise ConfigError(f"{path}:1: a config is a mapping with sections{hint}")
    return tree, values


def parse_yaml(text: str, source: str) -> tuple[yaml.Node | None, Any]:
    """The YAML with its line numbers, and its values."""
    try:
        tree = yaml.SafeLoader(text).get_single_node()
        _refuse_duplicates(tree, source)
        return tree, yaml.safe_load(text)
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
    """The line where the value at ``path`` is written, or its nearest enclosing one."""
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
        for key, value in node.value:
            if key.value == step:
                node, line = value, key.start_mark.line + 1
                break
        else:
            break
    return line


def _refuse_duplicates(tree: yaml.Node | None, source: str) -> None:
    nodes: list[yaml.Node | None] = [tree]
    seen: set[int] = set()  # an alias leads to a node that was there before, perhaps above
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(node, yaml.MappingNode):
            continue
        seen.add(id(node))
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    where = f"{source}:{key.start_mark.line + 1}"
                    raise ConfigError(f"{where}: {key.value!r} is written twice; keep one of them")
                names.add(key.value)
            nodes.append(value)
