"""Every code block of the README and of the documentation runs, and prints what the page shows.

    python -m pytest tests/docs

Blocks of a page run in order, in one namespace and in one empty folder. A block whose first line
is ``# some.yaml`` (or .py, .toml) is written to that file as well. A ``text`` block is what the
block before it prints. YAML is checked against the schema. A block below a line such as
``*Needs a GPU.*`` runs too, and must fail for want of just that.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, read_blocks
from tests.docs.outputs import difference
from tests.docs.run_page import BlockError, PageRun

pytest.importorskip("vaderSentiment")  # the pages about comparisons


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in PAGES if read_blocks(p)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    PageRun(tmp_path).run(read_blocks(page))


# Controls: broken pages are found out.


def run(tmp_path: Path, text: str) -> list[Block]:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    blocks = read_blocks(page)
    PageRun(folder).run(blocks)
    return blocks


GOOD = {
    "python": "```python\nx = 1\nx + 1\n```\n\nprints\n\n```text\n2\n```\n",
    "await": "```python\nimport asyncio\nawait asyncio.sleep(0, 'x')\n```\n\n```text\n'x'\n```\n",
    "yaml": "```yaml\nstrategy: {type: best_of_n, n: 4}\n```\n",
    "module": "```python\n# mine.py\nx = 1\n```\n\n```python\nfrom mine import x\n```\n",
    "indented": "1. so:\n\n    ```python\n    if True:\n        x = 1\n    ```\n",
    "bash": "```bash\nmake test  # all of it\npip install '.[compare]'\nw2s --version\n```\n",
    "needs": "*Needs models from the hub.*\n\n```python\n"
    "from w2s_chains import HuggingFaceProposer\n"
    'HuggingFaceProposer.from_pretrained("nobody/no-model")\n```\n',
}
BAD = {
    "name": ("```python\nx = missing_name\n```\n", "page.md:2"),
    "later line": ("\n\n```python\nx = 1\ny = missing_name\n```\n", "line 5"),
    "output": ("```python\n1 + 1\n```\n\n```text\n3\n```\n", "the page shows"),
    "score": ("```python\nprint(6.613)\n```\n\n```text\n16.4\n```\n", "shows 16.4"),
    "no output": ("```text\n3\n```\n", "no block above"),
    "yaml field": ("```yaml\nstrategy: {type: best_of_n, m: 4}\n```\n", "page.md:2"),
    "yaml section": ("```yaml\nstratgy: {type: best_of_n}\n```\n", "stratgy"),
    "group": ('```toml\n[project.entry-points."w2s_chains.beams"]\na = "b:c"\n```\n', "beams"),
    "entry point": (
        '```toml\n[project.entry-points."w2s_chains.scorers"]\na = "no_package:c"\n```\n',
        "no_package",
    ),
    "language": ("```\nx\n```\n", "nobody checks"),
    "target": ("```bash\nmake coffee\n```\n", "coffee"),
    "extra": ("```bash\npip install '.[coffee]'\n```\n", "coffee"),
    "command": ("```bash\nrm -r .\n```\n", "rm"),
    "option": ("```bash\nw2s compare x.yaml --coffee\n```\n", "ended with 2"),
    "not needed": ("*Needs a GPU.*\n\n```python\nx = 1\n```\n", "works here"),
    "other fault": ("*Needs a GPU.*\n\n```python\nx = missing_name\n```\n", "missing_name"),
    "open": ("```python\nx = 1\n", "not closed"),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_right_page_passes(text: str, tmp_path: Path) -> None:
    assert run(tmp_path, text)


@pytest.mark.parametrize(("text", "told"), BAD.values(), ids=BAD)
def test_a_wrong_page_fails(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises((BlockError, ValueError), match=told):
        run(tmp_path, text)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("6.6", "6.613", True),
        ("6.61", "6.619", False),
        ("a  b\nc", "a b c", True),
        ("a ... c", "a b b c", True),
        ("a ... c", "a b", False),
        ("{'score': 0.5, ...}", "{'score': 0.5, 'n': 1}", True),
        ("3", "4", False),
    ],
)
def test_outputs_are_compared_within_rounding(shown: str, printed: str, same: bool) -> None:
    assert (difference(shown, printed) is None) is same
