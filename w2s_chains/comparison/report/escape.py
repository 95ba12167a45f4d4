"""Text of models and users as it may stand in a terminal or in Markdown, whatever it holds."""

from __future__ import annotations

import html
import re

_JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji need; they move nothing."""

_MARKS = re.compile(r"[\\`*|~$]|\](?=\()|(?<![^\W_])_|_(?![^\W_])")
"""What makes Markdown of a line: a bracket only before a link's address, an underscore only at the
edge of a word."""


def on_one_line(text: str, most: int | None = None) -> str:
    """Return text with a space for every run of white space, cut to so many characters."""
    line = " ".join(text.split())
    if most is None or len(line) <= most:
        return line
    return line[: most - 1].rstrip() + "…"


def for_terminal(text: str, encoding: str = "utf-8") -> str:
    """Return one line that a terminal shows as it is: what would steer it is written out.

    Args:
        text: Any text.
        encoding: The terminal's; characters that it lacks are written out, too.
    """
    shown = "".join(
        char if char.isprintable() or char in _JOINERS else ascii(char)[1:-1]
        for char in " ".join(text.split())
    )
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def for_markdown(text: str) -> str:
    """Return text for a cell of a table, where no Markdown or HTML in it counts as such.

    Lines stay lines, as ``<br>``.
    """
    lines = [for_terminal(line) for line in text.strip().splitlines()]
    return "<br>".join(_MARKS.sub(r"\\\g<0>", html.escape(line, quote=False)) for line in lines)
