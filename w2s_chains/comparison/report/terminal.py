"""Tables in a terminal of any width: no number is cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from w2s_chains.comparison.report.escape import for_terminal


def make_console() -> Console:
    """Make a console in which text is never taken for rich's markup."""
    return Console(markup=False, emoji=False, highlight=False)


def print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], together: int
) -> None:
    """Show a table; columns that do not fit side by side go into further tables.

    If even one group of columns does not fit beside the first one, every cell gets a line.

    Args:
        console: The terminal.
        header: The titles; the first is that of the configs' names.
        rows: The cells.
        together: How many columns make a group that stays together.
    """
    rows = [[for_terminal(cell, console.encoding) for cell in row] for row in rows]
    groups = [range(first, first + together) for first in range(1, len(header), together)]
    tables = list(_tables(header, rows, groups, console))
    if any(_width(table, console) > console.width for table in tables):
        for line in _stacked(header, rows):
            console.print(line, soft_wrap=True)
        console.print()
        return
    for table in tables:
        console.print(table)


def print_legend(console: Console, meanings: Iterable[tuple[str, str]]) -> None:
    """Show what each column means, with the names of the columns on the left."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.style = "dim"
    grid.add_column(max_width=max(console.width // 3, 1), overflow="fold")
    grid.add_column(overflow="fold")
    for name, meaning in meanings:
        grid.add_row(*(for_terminal(text, console.encoding) for text in (name, meaning)))
    console.print(grid)


def _tables(
    header: Sequence[str], rows: Sequence[Sequence[str]], groups: Sequence[range], console: Console
) -> Iterator[Table]:
    """Divide groups of columns among as few tables as fit the console, in order."""
    while groups:
        fit = 1
        for count in range(2, len(groups) + 1):
            if _width(_table(header, rows, groups[:count]), console) > console.width:
                break
            fit = count
        yield _table(header, rows, groups[:fit])
        groups = groups[fit:]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], groups: Iterable[range]) -> Table:
    """Make a table of the first column and of those in ``groups``; no cell may wrap."""
    columns = [0, *(at for group in groups for at in group)]
    table = Table(box=SIMPLE, pad_edge=False, collapse_padding=True)
    for at in columns:
        justify = "right" if at else "left"
        table.add_column("\n".join(header[at].split()), justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(row[at] for at in columns))
    return table


def _width(table: Table, console: Console) -> int:
    """Return the width that a table needs to show every cell on one line."""
    return Measurement.get(console, console.options.update(max_width=10**6), table).maximum


def _stacked(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each config, followed by a line for each of its numbers."""
    widest = max(map(cell_len, header))
    for row in rows:
        yield row[0]
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell:
                yield f"  {name}{' ' * (widest - cell_len(name))}  {cell}"
