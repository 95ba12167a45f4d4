"""What an editor says: pyright knows every field of the constructor, and finds a misspelt one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from w2s_chains import W2SLLM, ChatW2S, ChunkBeamSearch, ConfigError, Guides, Model
from w2s_chains.backend.loading.config import ModelFields, ModelOptions
from w2s_chains.config.arguments import Arguments, ChatArguments

ROOT = Path(__file__).parents[1]

EXAMPLE = """
from w2s_chains import W2SLLM, ChatW2S, ChunkBeamSearch, Guides, Model

llm = W2SLLM(
    proposer=Model("meta-llama/Meta-Llama-3-8B-Instruct", chat=True, device_map="auto"),
    guides=Guides(tuned="a", untuned="b", device="cuda:1"),
    strategy=ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
    max_tokens=256, seed=0)
chat = ChatW2S("hub/id", guides="zephyr", strategy={"type": "best_of_n", "n": 4}, streaming=True)
"""
MISSPELT = {
    "max_tokens=256": "max_token=256",
    "guides=Guides(": "guide_pair=Guides(",
    "device_map=": "device_mapp=",
    'device="cuda:1"': 'dvice="cuda:1"',
    "width=4": "widht=4",
    "streaming=True": "streeming=True",
    "seed=0": 'seed="0"',
}


def complaints(folder: Path, sources: dict[str, str]) -> dict[str, list[str]]:
    """What pyright says of each source."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]})
    )
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p",
         str(folder)],
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    found: dict[str, list[str]] = {name: [] for name in sources}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        found[Path(one["file"]).stem].append(one["message"])
    return found


def test_an_editor_finds_what_is_misspelt(tmp_path: Path) -> None:
    sources = {"good": EXAMPLE}
    sources |= {f"bad{i}": EXAMPLE.replace(*pair) for i, pair in enumerate(MISSPELT.items())}
    assert len(set(sources.values())) == len(MISSPELT) + 1
    found = complaints(tmp_path, sources)
    assert found["good"] == []
    for i, wrong in enumerate(MISSPELT.values()):
        [message] = found[f"bad{i}"]
        assert wrong.split("=")[0] in message, message


def test_the_program_finds_it_too() -> None:
    for make, told in (
        (lambda: Model("x", device_mapp="auto"), "device_map"),  # pyright: ignore[reportCallIssue]
        (lambda: Guides("a", "b", dvice="cpu"), "device"),  # pyright: ignore[reportCallIssue]
        (lambda: ChunkBeamSearch(widht=4), "width"),  # pyright: ignore[reportCallIssue]
        (lambda: W2SLLM("x", max_token=256), "max_tokens"),  # pyright: ignore[reportCallIssue]
        (lambda: ChatW2S("x", streeming=True), "streaming"),  # pyright: ignore[reportCallIssue]
    ):
        with pytest.raises(ConfigError, match=f"did you mean '{told}'"):
            make()


def test_the_typed_arguments_are_the_fields() -> None:
    """The dictionaries that editors read say what the classes take, no more and no less."""
    assert set(get_type_hints(ModelFields)) == set(ModelOptions.model_fields)
    for kind, arguments in ((W2SLLM, Arguments), (ChatW2S, ChatArguments)):
        assert set(get_type_hints(arguments)) | {"proposer"} == set(kind.model_fields)
