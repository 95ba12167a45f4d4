"""The house holds: imports run down, no circle, rooms of 4 to 9 files, a map that is true."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import house

MODULES = house.modules()
FOLDERS = [path.parent for path in MODULES.values() if path.name == "__init__.py"][1:]


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_run_down(module: str) -> None:
    path = MODULES[module]
    assert house.part_of(module) or list(path.parent.glob("*/__init__.py")), (
        "a new part needs a floor: see FLOORS in tests/helpers/house.py"
    )
    assert house.faults(module, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.asks", "from w2s_chains.search import BestOfN"),
        ("search.base", "import torch"),
        ("search.base", "def f():\n    import langchain_core.runnables"),
        ("search.base", "from w2s_chains.engine import Engine"),
        ("search.base", "if TYPE_CHECKING:\n    from w2s_chains.engine import Engine"),
        ("backend.kv.batch", "from w2s_chains.guides import GuidePair"),
        ("backend.kv.batch", "from w2s_chains.backend.loading.load import load"),
        ("backend.chat.chat_template", "from w2s_chains.backend.remote.server import Server"),
        ("guides.pair", "from w2s_chains.scorers import LogRatioScorer"),
        ("proposers.openai", "from w2s_chains.rewards.base import Reward"),
        ("scorers.mixture", "import torch.nn"),
        ("engine.job", "import transformers"),
        ("engine.job", "from w2s_chains.langchain.llms import W2SLLM"),
        ("config.files", "from langchain_core.language_models import BaseLLM"),
        ("langchain.llms", "import torch"),
        ("langchain.llms", "from w2s_chains import Engine"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    """Control: the test above can fail."""
    assert len(house.faults(module, source)) >= 1


def graph() -> dict[str, set[str]]:
    """Which modules import which; ``from package import name`` leads to the package."""
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        folder = name if path.name == "__init__.py" else name.rpartition(".")[0]
        package = f"w2s_chains.{folder}".rstrip(".")
        imported = house.imports(path.read_text(encoding="utf-8"), package)
        found[name] = house.ours(imported, MODULES) - {name, ""}
    return found


def test_there_is_no_circle() -> None:
    found = graph()
    assert house.circles(found) == []
    found["core.hypothesis"].add("search.base")
    assert house.circles(found), "control: one import upwards closes a circle"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_folder_has_four_to_nine_files(folder: Path) -> None:
    """Files and folders, but an ``__init__`` that only hands names on is not counted."""
    inside = [p for p in folder.iterdir() if p.suffix == ".py" and p.name != "__init__.py"]
    inside += [p.parent for p in folder.glob("*/__init__.py")]
    assert 4 <= len(inside) <= 9, sorted(path.name for path in inside)


def test_no_module_is_long() -> None:
    lengths = {n: len(p.read_text(encoding="utf-8").splitlines()) for n, p in MODULES.items()}
    assert max(lengths.values()) <= 350, max(lengths, key=lambda name: lengths[name])


def test_no_two_classes_have_one_name() -> None:
    classes: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("class ") and not line.startswith("class _"):
                name = line.removeprefix("class ").split("(")[0].split(":")[0].split("[")[0]
                classes.setdefault(name, []).append(module)
    assert {name: where for name, where in classes.items() if len(where) > 1} == {}


def test_the_map_in_contributing_is_the_house() -> None:
    text = house.CONTRIBUTING.read_text(encoding="utf-8")
    assert text == house.with_map(text), "write it anew: python -m tests.helpers.house"


def test_no_test_file_imports_another() -> None:
    for path in Path(__file__).parent.rglob("test_*.py"):
        for name in house.imports(path.read_text(encoding="utf-8")):
            if name.startswith("tests."):
                last = name.split(".")
                assert not any(step.startswith("test_") for step in last), f"{path} imports {name}"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


HEAVY = """
import sys
heavy = {"torch", "transformers", "langchain_core", "langchain"}
def check(what):
    loaded = sorted(heavy & set(sys.modules))
    assert not loaded, f"{what} loads {loaded}"
"""


def test_the_face_is_light() -> None:
    """Neither the package nor its config loads a heavy library; the command's version neither."""
    done = run(
        HEAVY + "import w2s_chains\n"
        "check('import w2s_chains')\n"
        "import w2s_chains.search, w2s_chains.testing\n"
        "check('import w2s_chains.search')\n"
        "w2s_chains.Model('x'), w2s_chains.Guides('a', 'b'), w2s_chains.ChunkBeamSearch()\n"
        "from w2s_chains.config import load_config\n"
        "load_config({'proposer': 'x', 'guides': 'zephyr', 'scorer': {'type': 'log_ratio'}})\n"
        "check('reading a config')\n"
        "from w2s_chains.cli import app\n"
        "check('the command line')\n"
        "w2s_chains.W2SLLM\n"
        "assert 'langchain_core' in sys.modules, 'control'\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_version_is_light() -> None:
    done = run(
        HEAVY + "from w2s_chains.cli import app\n"
        "try:\n"
        "    app(['--version'])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "check('w2s --version')\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_core_works_without_langchain() -> None:
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0].startswith(("langchain", "langsmith", "langgraph")):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import w2s_chains
face = {"W2SLLM", "ChatW2S", "load", "compare", "tune", "LangChainConfig", "LangChainProposer"}
for name in w2s_chains.__all__:
    if name not in face:
        getattr(w2s_chains, name)
from w2s_chains import config, testing
for name in face:
    try:
        getattr(w2s_chains, name)
    except ImportError as error:
        assert "blocked" in str(error)
    else:
        raise SystemExit("control: langchain was not blocked for " + name)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
