"""Notebooks of the cookbook: read, executed anew, and what they show."""

from __future__ import annotations

import copy
import html
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

COOKBOOK = Path(__file__).parents[2] / "cookbook"
FOLDER = COOKBOOK / "langchain"
BLACK_BOX = COOKBOOK / "black_box" / "black_box.ipynb"
"""Needs a server, so ``tests/llama_cpp`` executes it."""


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(notebook: NotebookNode, folder: Path = FOLDER) -> NotebookNode:
    """A copy, run from top to bottom in a fresh kernel and in its folder."""
    fresh = copy.deepcopy(notebook)
    for cell in code_cells(fresh):
        cell.outputs, cell.execution_count = [], None
    import_module("matplotlib.font_manager")  # the first time ever it says that it builds a cache
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    client = NotebookClient(
        fresh,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=env)
    return fresh


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: NotebookNode) -> list[tuple[str, list[tuple[str, str]]]]:
    """Per code cell its source, and the kind and the text of each output."""
    return [(cell.source, list(map(output_text, cell.outputs))) for cell in code_cells(notebook)]


def output_text(output: NotebookNode) -> tuple[str, str]:
    """The kind of an output and its text: of a table its source, of a picture that there is one."""
    if output.output_type == "stream":
        return output.name, output.text
    if output.output_type == "error":
        return "error", f"{output.ename}: {output.evalue}"
    data = output.data
    parts = [data["text/plain"], data.get("text/markdown", "")]
    if page := data.get("text/html"):
        parts.append(trees(page) if TRACES in html.unescape(page) else page)
    parts += [kind for kind in data if kind.startswith("image/")]
    return output.output_type, "\n".join(filter(None, parts))


TRACES = '[{"version":'


def trees(page: str) -> str:
    """The trees that a page shows, without timings and what another processor rounds otherwise."""
    text = html.unescape(page)
    traces: list[dict[str, Any]]
    traces, _ = json.JSONDecoder().raw_decode(text, text.index(TRACES))
    told = ("id", "parent", "round", "text", "state")
    return json.dumps(
        [
            {
                "prompt": trace["prompt"],
                "nodes": [
                    [*map(node.get, told), f"{node.get('score', 0):.1f}"] for node in trace["nodes"]
                ],
                "answer": trace["answer"]["text"],
            }
            for trace in traces
        ]
    )
