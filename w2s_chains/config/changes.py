"""Changes to a config on the command line: ``--set strategy.width=2``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from w2s_chains.core.configs import Held, Plugin, aliases, class_at, field_called, held_at
from w2s_chains.core.slots import Slot, is_mapping
from w2s_chains.errors import ConfigError, shown
from w2s_chains.user_files import line_of, parse_yaml


class Changes:
    """The values of a config file with changes, and who says which of them.

    Sections that are missing are added, and a name that stands for a section becomes one:
    ``strategy: best_of_n`` with ``strategy.n=4`` is ``{type: best_of_n, n: 4}``.

    Attributes:
        values: What the file would have to say; the values that were given stay as they were.
    """

    def __init__(
        self, values: Mapping[Any, Any], changes: Sequence[str], model: type[BaseModel]
    ) -> None:
        """Apply changes in their order.

        Args:
            values: What the file says.
            changes: Each is ``PATH=VALUE``: the names of sections and field with dots between them
                (a number for an item of a list), and YAML.
            model: What the values are validated by.

        Raises:
            ConfigError: A change has another form, its value is broken YAML, or its path leads into
                a value that has no fields.
        """
        self._before = values
        self._options: dict[tuple[str, ...], str] = {}
        self.values: dict[Any, Any] = dict(values)
        for text in changes:
            path, equals, value = text.partition("=")
            steps = [step.strip() for step in path.split(".")]
            if not equals or not all(steps):
                raise ConfigError(
                    f"--set takes PATH=VALUE, such as strategy.width=2, and not {shown(text)}"
                )
            option = f"--set {text}"
            try:
                inside = _Path(steps, parse_yaml(value, option)[1], option)
            except ConfigError as error:  # an option has no lines
                raise ConfigError(str(error).replace(f"{option}:1:", f"{option}:")) from error
            self.values = inside.put(self.values, [model])
            self._options[tuple(inside.keys)] = option

    def place(self, tree: yaml.Node | None, source: str, path: Sequence[str]) -> int | str | None:
        """Return the line of the file, or the option, that says the value at ``path``.

        Args:
            tree: The file as YAML.
            source: The name of the file.
            path: The keys of the value.
        """
        line = line_of(tree, path)
        partly: str | None = None
        for keys, option in self._options.items():
            if tuple(path[: len(keys)]) == keys:
                return option
            inside = keys[: len(path)] == tuple(path)
            if inside and not _has(self._before, path):
                return option
            # Another type may refuse what the file says beside it.
            if inside or (keys[-1] == "type" and tuple(path[: len(keys) - 1]) == keys[:-1]):
                partly = option
        return line if partly is None else f"{source}:{line} with {partly}"


class _Path:
    """The way to a value.

    Attributes:
        keys: The keys that were taken; they differ from the names where the file uses old names.
    """

    def __init__(self, steps: Sequence[str], value: Any, option: str) -> None:
        self.keys: list[str] = []
        self._steps, self._value, self._option = steps, value, option

    def put(self, node: Any, held: list[Held]) -> Any:
        """Return a copy of ``node``, which stands at ``keys``, with the value inside."""
        if len(self.keys) == len(self._steps):
            return self._value
        step, at = self._steps[len(self.keys)], ".".join(self.keys)
        node = {} if node is None else _expanded(node, held)
        if isinstance(node, list):
            items: list[Any] = [*node]
            if not step.isdecimal() or int(step) >= len(items):
                raise ConfigError(
                    f"{self._option}: {at} is a list of {len(items)}, which has no item "
                    f"{shown(step)}; they are counted from 0"
                )
            self.keys.append(step)
            items[int(step)] = self.put(items[int(step)], held)
            return items
        if not is_mapping(node):
            raise ConfigError(f"{self._option}: {at} is {shown(node)}, which has no fields")
        cls = class_at(held, node)
        field = field_called(cls, step)
        names = [step] if field is None else [field[0], *aliases(field[1])]
        key = next((name for name in names if name in node), step)
        below = node.get(key)
        default = None if field is None else field[1].get_default(call_default_factory=True)
        last = len(self.keys) + 1 == len(self._steps)
        if key not in node and isinstance(default, Plugin) and not last:
            below = {"type": default.type}
        self.keys.append(key)
        return {**node, key: self.put(below, held_at(held, node, step))}


def _expanded(node: Any, held: Sequence[Held]) -> Any:
    """Return the section that a bare name stands for, if it stands for one."""
    if not isinstance(node, str):
        return node
    for one in held:
        if isinstance(one, Slot):
            return one.coerce(node)
        if "model" in one.model_fields:
            return {"model": node}
    return node


def _has(values: Any, path: Sequence[str]) -> bool:
    for step in path:
        if is_mapping(values) and step in values:
            values = values[step]
        elif isinstance(values, list) and step.isdecimal() and int(step) < len(values):
            values = values[int(step)]
        else:
            return False
    return True
