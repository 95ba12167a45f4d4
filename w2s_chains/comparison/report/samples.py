"""A few answers of all configs, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from w2s_chains.comparison.report.escape import for_markdown, for_terminal, on_one_line
from w2s_chains.comparison.report.paired import value
from w2s_chains.comparison.report.summary import Summary, markdown_table
from w2s_chains.comparison.report.terminal import make_console
from w2s_chains.comparison.rows import Row

PROMPTS = 3
"""How many prompts are chosen."""

_ANSWERS = 24
"""About how many answers are shown in the terminal: of many configs, fewer prompts."""

_REWARDS = 2
"""The most rewards that stand beside an answer."""

_FEW = 4
"""The most configs whose answers are shown at length in the terminal."""

_TERMINAL, _MANY, _MARKDOWN = 240, 80, 1000
"""The most characters of an answer: in the terminal, there if configs are many, in Markdown."""


def pick(rows: Iterable[Row], summary: Summary) -> list[list[Row]]:
    """Choose answers to show: for a few prompts, the first seed's row of each config.

    The prompts are spread evenly over those that all configs have answered, or else over those that
    any has: their rewards do not matter, so nobody's best answers are picked.
    """
    first: dict[tuple[int, str], Row] = {}
    for row in rows:
        at = (row.index, row.config)
        if at not in first or row.seed < first[at].seed:
            first[at] = row
    names = [line.config for line in summary.lines]
    by_prompt = {
        index: [first[index, name] for name in names if (index, name) in first]
        for index in sorted({index for index, _ in first})
    }
    answers = {i: sum(row.text is not None for row in own) for i, own in by_prompt.items()}
    some = [i for i, count in answers.items() if count == len(names)]
    some = some or [i for i, count in answers.items() if count]
    count = min(PROMPTS, len(some))
    places = [round(n * (len(some) - 1) / max(count - 1, 1)) for n in range(count)]
    return [by_prompt[some[place]] for place in places]


def print_answers(rows: Iterable[Row], summary: Summary) -> None:
    """Show a few answers in the terminal, cut to a few lines each."""
    configs = max(len(summary.lines), 1)
    picked = pick(rows, summary)[: max(_ANSWERS // configs, 1)]
    if not picked:
        return
    console = make_console()
    most = _TERMINAL if configs <= _FEW else _MANY

    def shown(text: str) -> str:
        return for_terminal(on_one_line(text, most), console.encoding)

    console.print(_heading(picked, summary))
    header, tables = _tables(picked, summary)
    for own, cells in zip(picked, tables, strict=True):
        console.print()
        console.print(shown(f"Prompt {own[0].index}: {own[0].prompt}"), style="bold")
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for at, name in enumerate(header):
            width = max(console.width // 3, 1) if at == 0 else None
            justify = "right" if 0 < at < len(header) - 1 else "left"
            table.add_column(name, max_width=width, overflow="fold", justify=justify)
        for row in cells:
            table.add_row(*map(shown, row))
        console.print(table)
    console.print()


def markdown_answers(rows: Iterable[Row], summary: Summary) -> str:
    """Return a few answers as Markdown: for each prompt a table; empty if there are none."""
    if not (picked := pick(rows, summary)):
        return ""
    parts = [f"{_heading(picked, summary)}\n"]
    header, tables = _tables(picked, summary)
    for own, cells in zip(picked, tables, strict=True):
        table = markdown_table(header, [[_cut(cell) for cell in row] for row in cells], last="---")
        parts.append(f"**Prompt {own[0].index}:** {for_markdown(_cut(own[0].prompt))}\n\n{table}")
    return "\n".join(parts)


def _heading(picked: Sequence[Sequence[Row]], summary: Summary) -> str:
    return f"Answers to {len(picked)} of {summary.prompts} prompts, cut where they are long:"


def _tables(
    picked: Sequence[Sequence[Row]], summary: Summary
) -> tuple[list[str], list[list[list[str]]]]:
    """Return the header of all tables, and the rows of each: config, rewards, answer."""
    judged = summary.rewards[:_REWARDS]
    tables = [
        [[row.config, *(_number(value(row, name)) for name in judged), _answer(row)] for row in own]
        for own in picked
    ]
    return ["config", *judged, "answer"], tables


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _answer(row: Row) -> str:
    if row.text is None:
        return f"(no answer: {row.errors.get('answer', 'unknown error')})"
    return row.text if row.text.strip() else "(empty)"


def _cut(text: str) -> str:
    return text if len(text) <= _MARKDOWN else text[: _MARKDOWN - 1].rstrip() + "…"
