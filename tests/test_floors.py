"""Imports run downward only (see CONTRIBUTING.md): read from the source, not from memory."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "w2s_chains"
FLOORS = [
    {
        "hypothesis",
        "asks",
        "contracts",
        "events",
        "errors",
        "testing",
        "plugins",
        "answer_template",
        "user_files",
    },
    {"search", "backend", "remote", "named_models"},
    {"engine", "live", "jobs", "proposers", "guides", "scorers", "rewards"},
    {
        "llms",
        "chat_models",
        "guided",
        "assembled",
        "calls",
        "chunk_runs",
        "messages",
        "tools",
        "forms",
        "factory",
        "config",
        "config_files",
        "config_schema",
        "scorer_section",
        "faults",
    },
    {"cli", "comparison"},
]
FLOOR = {name: height for height, names in enumerate(FLOORS) for name in names}
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")
ENGINE = {"engine", "live", "jobs"}
USES_TORCH = {"backend", "proposers", "guides"}
USES_LANGCHAIN = {
    "llms",
    "chat_models",
    "guided",
    "assembled",
    "chunk_runs",
    "messages",
    "tools",
    "forms",
    "cli",
}

ADAPTERS = {"named_models.py", "proposers/langchain.py", "scorers/llm_judge.py"}
"""Files that wrap what LangChain has; nothing imports them before somebody asks for them."""


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Modules that are imported anywhere in a source, those for type checkers excepted."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level for node in froms), "imports are absolute"
    return names | {str(node.module) for node in froms}


def faults(part: str, source: str) -> list[str]:
    """What a source file of a part must not import."""
    found = []
    for name in sorted(imports(source)):
        root, *inner = name.split(".")
        if root == "w2s_chains" and inner:
            other = inner[0]
            higher = FLOOR[other] > FLOOR[part]
            sibling = FLOOR[other] == FLOOR[part] == 2 and other != part and part not in ENGINE
            if higher or sibling:
                found.append(f"{part} imports {name}")
        if root == "w2s_chains" and not inner:
            found.append(f"{part} imports the package itself")
        if root in ("torch", "transformers", "tokenizers", "peft") and part not in USES_TORCH:
            found.append(f"{part} imports {name}")
        if root.startswith(("langchain", "langgraph", "langsmith")) and part not in USES_LANGCHAIN:
            found.append(f"{part} imports {name}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    assert part_of(path) in FLOOR, "a new part needs a floor: see DESIGN and FLOORS above"
    found = faults(part_of(path), path.read_text(encoding="utf-8"))
    if str(path.relative_to(PACKAGE)) in ADAPTERS:
        found = [fault for fault in found if "imports langchain" not in fault]
    assert found == []


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("asks", "from w2s_chains.search import BestOfN"),
        ("search", "import torch"),
        ("search", "def f():\n    import langchain_core.runnables"),
        ("search", "from w2s_chains.engine import Engine"),
        ("backend", "from w2s_chains.guides import GuidePair"),
        ("guides", "from w2s_chains.scorers import LogRatioScorer"),
        ("proposers", "from w2s_chains.guides.pair import GuidePair"),
        ("scorers", "import torch.nn"),
        ("engine", "import transformers"),
        ("engine", "from w2s_chains.llms import W2SLLM"),
        ("config", "from langchain_core.language_models import BaseLLM"),
        ("llms", "import torch"),
        ("llms", "from w2s_chains import Engine"),
    ],
)
def test_a_wrong_import_is_found(part: str, source: str) -> None:
    """Control: the test above can fail."""
    assert len(faults(part, source)) == 1


def test_the_core_works_without_langchain() -> None:
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith(("langchain", "langsmith", "langgraph")):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import w2s_chains
for name in w2s_chains.__all__:
    if name not in w2s_chains._LAZY:
        getattr(w2s_chains, name)
from w2s_chains import config, testing
try:
    w2s_chains.W2SLLM
except ImportError as error:
    assert "blocked" in str(error)
else:
    raise SystemExit("control: langchain was not blocked")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
