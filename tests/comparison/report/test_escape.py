from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from w2s_chains.comparison.report.escape import for_markdown, for_terminal, on_one_line

NASTY = (
    "<script>alert(1)</script>",
    "**bold** __init__ snake_case _a_ ~~gone~~ `code` $x$ a|b",
    "[click](javascript:alert(1)) ![img](http://x) [a][b]",
    "# title\n\n| a | b |\n|---|---|\n* item\n```python\nx = 1\n```",
    "\\| \\\\ \\[ &lt; &#124; &amp;amp; <!-- x",
    "\x1b[31mred\x1b[0m \x07 \u202eright to left \u2028 line",
)


class Cells(HTMLParser):
    """The text of each cell of a page, a line per <br>, and all its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")
        if tag == "br":
            self.cells[-1] += "\n"

    def handle_data(self, data: str) -> None:
        if self.cells and data != "\n":
            self.cells[-1] += data


def rendered(cell: str) -> Cells:
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return Cells(markdown.render(f"| a | b |\n| --- | --- |\n| {cell} | end |\n"))


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("\\`*_[]()<>!|~$&#\n ax1:"))
@example("\n".join(NASTY))
def test_a_cell_shows_the_text_and_no_markdown(text: str) -> None:
    found = rendered(for_markdown(text))
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td", "br"}
    assert found.cells[1:] == ["end"], "the table keeps its columns"
    lines = [for_terminal(line) for line in text.strip().splitlines()]
    assert [line.strip() for line in found.cells[0].split("\n")] == (lines or [""])


@pytest.mark.parametrize("text", NASTY[:4])
def test_control_without_care_it_is_markdown(text: str) -> None:
    found = rendered(text.replace("\n", " "))
    assert found.tags > {"table", "td"} or found.cells[1:] != ["end"]


def test_plain_text_stays_readable() -> None:
    assert for_markdown("best_of_n n=4, +0.15 [+0.00, +0.29]") == (
        "best_of_n n=4, +0.15 [+0.00, +0.29]"
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("\n".join(NASTY))
def test_nothing_steers_a_terminal(text: str) -> None:
    for encoding in ("utf-8", "ascii"):
        shown = for_terminal(text, encoding)
        shown.encode(encoding)
        assert all(char.isprintable() or char in "\u200c\u200d" for char in shown)
    if text.isascii() and text.isprintable():
        assert for_terminal(text) == " ".join(text.split())
    assert for_terminal("\x1b[1m") == "\\x1b[1m"


def test_a_long_text_is_cut() -> None:
    assert on_one_line("one\n two\tthree") == "one two three"
    assert on_one_line("one two three", 8) == "one two…"
    assert on_one_line("one two", 7) == "one two"
