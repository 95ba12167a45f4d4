"""The house: which part of the package stands on which. CONTRIBUTING's map is made from this table.

``python -m tests.helpers.house`` writes the map; ``tests/test_floors.py`` holds the order.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "w2s_chains"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- house:begin -->", "<!-- house:end -->"

FLOORS: list[list[tuple[str, str]]] = [
    [("__main__", "`python -m w2s_chains`")],
    [("cli", "the command line, `w2s`")],
    [
        ("tuning", "`w2s tune`: the search that gains most for what is read"),
        ("serving", "`w2s serve`: an OpenAI-compatible server"),
    ],
    [
        ("comparison", "`w2s compare`: configs on the same prompts"),
        ("doctor", "`w2s doctor`: what a config will do, before any answer"),
    ],
    [("langchain", "LLM, chat model, tools, structured output, callbacks")],
    [("config", "sections of a config, files, JSON schema")],
    [
        ("engine", "interleaves searches; owns the thread that runs models"),
        ("proposers", "the large frozen model"),
        ("scorers", "the value of a partial answer"),
        ("rewards", "judges of whole answers, for comparisons"),
    ],
    [("guides", "the small models, and pairs of them")],
    [
        ("testing", "drives a search without a model"),
        ("tracing", "the tree of one search as a value; its page"),
        ("backend.classifiers", "models that judge whole texts"),
    ],
    [
        ("search", "the strategies: pure algorithms"),
        ("backend.loading", "from a model's name to a model in memory"),
    ],
    [("backend.sampling", "the next tokens, one at a time or drafted")],
    [("backend.lm", "a causal language model, and what it has read")],
    [
        ("backend.kv", "keys and values: where they lie, and batches of them"),
        ("backend.constrained", "sampling that keeps to a form"),
    ],
    [
        ("backend.text", "tokenizers, stop strings, what ends an answer"),
        ("backend.remote", "models behind HTTP"),
    ],
    [("backend.chat", "a conversation as one text: templates, turns, thoughts")],
    [("core", "hypotheses, prompts, asks, events, contracts, slots")],
    [("user_files", "files that a user names: text, YAML")],
    [("values", "values that users and parts give: numbers, scores")],
    [("errors", "every error"), ("forks", "what a forked child starts anew")],
]
"""From the roof down: a part may import those of lower floors, never its neighbours or higher ones.

``engine`` runs what its neighbours are only through their contracts in ``core``.
"""

FLOOR = {name: len(FLOORS) - at for at, names in enumerate(FLOORS) for name, _ in names}

ALLOWED = {
    "torch": ("backend", "proposers.huggingface", "guides.huggingface", "guides.pair"),
    "langchain": (
        "langchain",
        "proposers.langchain",
        "scorers.llm_judge",
        "backend.remote.langchain_models",
    ),
    "fastapi": ("serving",),
}
"""Modules that may import a family of packages; everything else must do without."""

FAMILIES = {
    "torch": ("torch", "transformers", "tokenizers", "peft"),
    "langchain": ("langchain", "langchain_core", "langgraph", "langsmith"),
    "fastapi": ("fastapi", "starlette", "uvicorn", "prometheus_client"),
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name without ``w2s_chains.``; a package by its folder."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = path
    return found


def part_of(module: str) -> str | None:
    """The part that a module belongs to; None for packages that only hold parts."""
    return next((part for part in FLOOR if f"{module}.".startswith(f"{part}.")), None)


def imports(source: str, package: str = "") -> Iterator[str]:
    """Modules that a source imports anywhere, also inside functions and for type checkers alone.

    Args:
        source: The source of a module, or of its stub.
        package: The package it belongs to, for relative imports.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package if node.level else ""
            yield ".".join(filter(None, [base, node.module]))
            for alias in node.names:  # ``from package import module``
                yield ".".join(filter(None, [base, node.module, alias.name]))


def ours(names: Iterable[str], known: Iterable[str]) -> set[str]:
    """Those of our modules among imported names."""
    inner = {name.removeprefix("w2s_chains").removeprefix(".") for name in names
             if name.split(".")[0] == "w2s_chains"}  # fmt: skip
    return inner & set(known)


def faults(module: str, source: str) -> list[str]:
    """What a module must not import."""
    found: list[str] = []
    part = part_of(module)
    for name in sorted(set(imports(source))):
        root, _, inner = name.partition(".")
        if root == "w2s_chains":
            other = part_of(inner)
            if name == "w2s_chains":
                found.append(f"{module} imports the package itself")
            elif part and other and other != part and FLOOR[other] >= FLOOR[part]:
                found.append(f"{module} imports {name}")
        for family, roots in FAMILIES.items():
            allowed = any(f"{module}.".startswith(f"{one}.") for one in ALLOWED[family])
            if root in roots and not allowed:
                found.append(f"{module} imports {name}")
    return list(dict.fromkeys(found))


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for other in graph.get(todo.pop(), set()) - seen:
                seen.add(other)
                todo.append(other)
        reach[start] = seen
    groups = {
        frozenset({a, *(b for b in reach[a] if a in reach[b])}) for a in graph if a in reach[a]
    }
    return sorted(sorted(group) for group in groups)


def house_map() -> str:
    """The map as CONTRIBUTING shows it."""
    lines = ["```text", "w2s_chains/"]
    for at, names in enumerate(FLOORS):
        for i, (name, about) in enumerate(names):
            path = PACKAGE.joinpath(*name.split("."))
            shown = name.replace(".", "/") + ("/" if path.is_dir() else ".py")
            floor = str(len(FLOORS) - at) if i == 0 else ""
            lines.append(f"{floor:>4}  {shown:<22}{about}")
    return "\n".join([*lines, "```"])


def with_map(text: str) -> str:
    """CONTRIBUTING's text with the map of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{house_map()}\n{END}{after}"


if __name__ == "__main__":
    CONTRIBUTING.write_text(with_map(CONTRIBUTING.read_text(encoding="utf-8")), encoding="utf-8")
