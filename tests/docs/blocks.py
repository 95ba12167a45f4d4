"""Reads the code blocks of a Markdown page."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
"""Every page whose blocks are run."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_NEEDS = re.compile(r"^\*Needs .+\.\*$")
_NAMED = re.compile(r"^# (\S+\.(?:py|yaml|toml|txt))\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        page: The file it is in.
        line: The line of its first line of code, from 1.
        language: What the fence says: python, yaml, bash, toml, text, ...
        code: The code, without the indentation of the fence.
        needs: The line above the block that says what it needs and a test machine lacks, such as
            ``*Needs a GPU.*``; empty without one.
    """

    page: Path
    line: int
    language: str
    code: str
    needs: str = ""

    @property
    def file(self) -> str | None:
        """The file that a first line such as ``# w2s.yaml`` says this is."""
        found = _NAMED.match(self.code)
        return None if found is None else found[1]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order.

    Raises:
        ValueError: A fence is not closed.
    """
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    place, above = 0, ""
    while place < len(lines):
        fence = _FENCE.match(lines[place])
        if fence is None:
            above = lines[place].strip() or above
            place += 1
            continue
        closing = f"{fence['indent']}```"
        try:
            end = next(i for i in range(place + 1, len(lines)) if lines[i] == closing)
        except StopIteration:
            raise ValueError(f"{page}:{place + 1}: the block is not closed") from None
        code = textwrap.dedent("\n".join(lines[place + 1 : end]) + "\n")
        blocks.append(
            Block(
                page=page,
                line=place + 2,
                language=fence["info"].partition(" ")[0].strip(),
                code=code,
                needs=above if _NEEDS.match(above) else "",
            )
        )
        place, above = end + 1, ""
    return blocks
