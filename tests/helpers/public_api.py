"""The public interface as text: every public name, with its fields, methods and signatures.

``python -m tests.helpers.public_api`` writes it into ``tests/public_api.txt``, which
``tests/test_public_names.py`` compares with the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import griffe

PINNED = Path(__file__).parents[1] / "public_api.txt"
MODULES = (
    "w2s_chains", "comparison", "config", "errors", "rewards", "search", "testing", "tuning",
)  # fmt: skip
SPECIAL = ("__init__", "__call__", "__enter__", "__exit__", "__await__", "__iter__", "__aiter__")


def public_api() -> str:
    """Read the package's source."""
    package = griffe.load("w2s_chains", resolve_aliases=True)
    values: dict[str, Any] = {}
    for module_name in MODULES:
        module = package if module_name == "w2s_chains" else cast(Any, package[module_name])
        for name in _names(module.path):
            value: Any = module.members[name]
            value = value.final_target if value.is_alias else value
            if value not in values.values():
                values[f"{module.path}.{name}"] = value
    public = {value.path for value in values.values()}
    parts = ("\n".join(_described(name, value, public)) for name, value in values.items())
    return "\n\n".join(parts) + "\n"


def _names(path: str) -> list[str]:
    """The public names of a module: its ``__all__``, or what is defined in it."""
    module = importlib.import_module(path)
    defined = (n for n, v in vars(module).items() if getattr(v, "__module__", "") == path)
    return sorted(n for n in getattr(module, "__all__", defined) if not n.startswith("_"))


def _described(name: str, value: Any, public: set[str]) -> Iterator[str]:
    if value.is_function:
        yield value.signature(name=name)
    elif value.is_class:
        yield f"class {name}({', '.join(map(str, value.bases))})"
        for member_name, member in sorted(_members(value, public).items()):
            yield f"    {_member(member_name, member)}"
    else:
        yield f"{name}: {value.annotation}" if value.annotation else name


def _members(kind: Any, public: set[str]) -> dict[str, Any]:
    """Public members of a class, with those of its bases up to the first that is public itself."""
    ours = [base for base in kind.mro() if base.path.startswith("w2s_chains.")]
    unlisted = takewhile(lambda base: base.path not in public, ours)
    members: dict[str, Any] = {}
    for base in (*reversed(list(unlisted)), kind):
        members |= base.members
    return {n: m for n, m in members.items() if not n.startswith("_") or n in SPECIAL}


def _member(name: str, member: Any) -> str:
    member = member.final_target if member.is_alias else member
    if member.is_function:
        labels = sorted(member.labels & {"classmethod", "staticmethod", "async"})
        return " ".join([*labels, member.signature(name=name)])
    if "instance-attribute" in member.labels and not member.annotation:
        return name
    told = f"property {name}" if "property" in member.labels else name
    told += f": {member.annotation}" if member.annotation else ""
    return told if member.value is None else f"{told} = {member.value}"


if __name__ == "__main__":
    PINNED.write_text(public_api(), encoding="utf-8")
