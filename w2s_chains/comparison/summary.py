"""``Summary``: the table of a comparison, with means, paired differences and their intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from w2s_chains.comparison.rows import COSTS, Row, about_costs, costs

DRAWS = 10_000
"""Bootstrap samples of an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The difference of a config to the baseline, on the prompts and seeds that both answered.

    Attributes:
        mean: Mean of the paired differences.
        low: Lower end of its 95% interval, by bootstrap over prompts.
        high: Upper end.
        win_rate: Share of the pairs in which the config is higher; ties count half.
        prompts: Prompts that both answered.
    """

    mean: float
    low: float
    high: float
    win_rate: float
    prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One config in the table; means are over its answers.

    Attributes:
        config: The config's name.
        answers: Number of answers.
        failed: Number of rows with an error: without an answer, or with a reward that failed.
        seeds: Number of seeds.
        means: The mean of each column: guide score, rewards, repetition, loglikelihood, KL; NaN if
            there are no values.
        differences: The difference to the baseline for each reward; empty for the baseline itself.
        costs: The mean of each of ``COSTS``; NaN if a row of an older version does not tell it, or
            if it is unknown. If no row tells ``read_tokens``, guide tokens are those of old.
    """

    config: str
    answers: int
    failed: int
    seeds: int
    means: Mapping[str, float]
    costs: Mapping[str, float]
    differences: Mapping[str, Difference] = field(default_factory=dict[str, Difference])


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The table.

    Attributes:
        baseline: The config that the others are compared with.
        rewards: Names of the rewards, in order.
        lines: One per config, in order.
        prompts: Number of prompts.
    """

    baseline: str
    rewards: tuple[str, ...]
    lines: tuple[Line, ...]
    prompts: int

    @property
    def _kl_column(self) -> list[str]:
        """The KL column, unless no answer has a KL, as in rows of older versions."""
        return [] if all(np.isnan(line.means["kl"]) for line in self.lines) else ["KL"]

    @property
    def counts_rows(self) -> bool:
        """Whether any config tells what its proposer read; rows of older versions do not."""
        return not all(np.isnan(line.costs["read_tokens"]) for line in self.lines)

    @property
    def _costs(self) -> dict[str, str]:
        """The columns of costs and their titles, without those that no config has."""
        return {
            name: title
            for name, title in COSTS.items()
            if not (name == "proposed_tokens" and self.counts_rows)
            and not all(np.isnan(line.costs[name]) for line in self.lines)
        }

    @property
    def caption(self) -> str:
        """What the numbers mean, to be written below the table."""
        kl = (
            " KL is to the frozen model's own sampling, in nats per answer: an estimate for "
            "steering, an upper bound for searches."
        )
        return (
            f"{self.prompts} prompts. In brackets: 95% interval of the paired difference to "
            f"{self.baseline!r}, bootstrap over prompts ({DRAWS:,} draws); win: share of pairs "
            "above it. Repetition is 1 - distinct / all words; loglikelihood is the frozen "
            f"model's own, in nats per token. {about_costs(self.counts_rows)}"
            + kl
            * len(self._kl_column)
        )

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return header and rows of two tables for people: the rewards, and the costs."""
        failures = any(line.failed for line in self.lines)
        judged, cost = ["config"], ["config", "answers", *(["failed"] if failures else [])]
        for name in self.rewards:
            judged += [name, "difference", "win"]
        cost += ["guide score", "repetition", "loglikelihood", *self._kl_column]
        cost += self._costs.values()
        judged_rows: list[list[str]] = []
        cost_rows: list[list[str]] = []
        for line in self.lines:
            row = [line.config]
            for name in self.rewards:
                difference = line.differences.get(name)
                row += [_number(line.means[name])]
                row += ["", ""] if difference is None else _cells(difference)
            judged_rows.append(row)
            row = [line.config, str(line.answers), *([str(line.failed)] if failures else [])]
            row += [_number(line.means[c]) for c in ("guide_score", *ALWAYS)]
            row += [_number(line.means["kl"]) for _ in self._kl_column]
            row += [_cost(name, line.costs[name]) for name in self._costs]
            cost_rows.append(row)
        return [(judged, judged_rows)] * bool(self.rewards) + [(cost, cost_rows)]

    def print(self) -> None:
        """Show the tables in the terminal.

        Columns that do not fit side by side go into further tables. If even a reward alone does
        not fit beside the configs' names, every number gets a line of its own.
        """
        console = Console(markup=False, emoji=False, highlight=False)
        for at, (header, rows) in enumerate(self.tables()):
            size = 3 if self.rewards and at == 0 else 1  # a reward, its difference, its win rate
            groups = [range(first, first + size) for first in range(1, len(header), size)]
            tables = list(_tables(header, rows, groups, console))
            if any(_width(table, console) > console.width for table in tables):
                for line in _stacked(header, rows):
                    console.print(line, soft_wrap=True)
                console.print()
                continue
            for table in tables:
                console.print(table)
        console.print(self.caption, style="dim")

    def markdown(self) -> str:
        """Return one wide table, and what its numbers mean."""
        tables = self.tables()
        header = [name for header, _ in tables for name in header[header is not tables[0][0] :]]
        rows = [
            [cell for part in parts for cell in part[part is not parts[0] :]]
            for parts in zip(*(rows for _, rows in tables), strict=True)
        ]
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        table = "\n".join(f"| {' | '.join(line)} |" for line in cells)
        return f"{table}\n\n{self.caption}\n"

    def csv(self) -> str:
        """Return all numbers with six significant digits; a cell without a number is empty."""
        header = ["config", "answers", "failed", "seeds", "guide_score"]
        for name in self.rewards:
            parts = ("difference", "low", "high", "win_rate", "paired_prompts")
            header += [name, *(f"{name}_{part}" for part in parts)]
        header += ["repetition", "loglikelihood", *(name.lower() for name in self._kl_column)]
        header += COSTS
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        for line in self.lines:
            cells: list[object] = [line.config, line.answers, line.failed, line.seeds]
            cells.append(_exact(line.means["guide_score"]))
            for name in self.rewards:
                cells.append(_exact(line.means[name]))
                d = line.differences.get(name)
                numbers = [] if d is None else [d.mean, d.low, d.high, d.win_rate]
                cells += [""] * 5 if d is None else [*map(_exact, numbers), d.prompts]
            cells += [_exact(line.means["repetition"]), _exact(line.means["loglikelihood"])]
            cells += [_exact(line.means["kl"]) for _ in self._kl_column]
            cells += [_exact(line.costs[name]) for name in COSTS]
            writer.writerow(cells)
        return out.getvalue()


def summarize(
    rows: Iterable[Row], configs: Sequence[str], rewards: Sequence[str], baseline: str
) -> Summary:
    """Make the table.

    Args:
        rows: The rows, in any order.
        configs: Names of the configs, in the order of the table.
        rewards: Names of the rewards, in order; repetition and loglikelihood are always included.
        baseline: The config to compare the others with.
    """
    own: dict[str, list[Row]] = {name: [] for name in configs}
    for row in rows:
        if row.config in own:
            own[row.config].append(row)
    columns = [name for name in rewards if name not in ALWAYS]
    told = any(row.read_tokens is not None for answers in own.values() for row in answers)
    lines: list[Line] = []
    for name, answers in own.items():
        lines.append(
            Line(
                config=name,
                answers=sum(row.text is not None for row in answers),
                failed=sum(bool(row.errors) for row in answers),
                seeds=len({row.seed for row in answers}),
                means={
                    c: _mean(values(answers, c)) for c in ("guide_score", *columns, *ALWAYS, "kl")
                },
                differences={}
                if name == baseline
                else {
                    column: difference
                    for column in columns
                    if (difference := compare_paired(answers, own[baseline], column)) is not None
                },
                costs={
                    c: _mean(costs([row for row in answers if row.text is not None], c, told))
                    for c in COSTS
                },
            )
        )
    prompts = len({row.index for answers in own.values() for row in answers})
    return Summary(baseline=baseline, rewards=tuple(columns), lines=tuple(lines), prompts=prompts)


ALWAYS = ("repetition", "loglikelihood")
"""Columns of every comparison: one of them shows when a search over-optimises."""


def value(row: Row, column: str) -> float | None:
    """Return the value that a row has in a column of the table."""
    if column in ("guide_score", "loglikelihood", "kl"):
        return getattr(row, column)
    return row.rewards.get(column)


def values(rows: Iterable[Row], column: str) -> list[float]:
    """Return the values that rows have in a column, without those that have none."""
    return [v for row in rows if (v := value(row, column)) is not None]


def compare_paired(rows: Iterable[Row], baseline: Iterable[Row], column: str) -> Difference | None:
    """Return the paired difference of two configs; None if no prompt and seed is in both."""
    theirs = {(row.index, row.seed): value(row, column) for row in baseline}
    gains: dict[int, list[float]] = {}
    for row in rows:
        mine, other = value(row, column), theirs.get((row.index, row.seed))
        if mine is not None and other is not None:
            gains.setdefault(row.index, []).append(mine - other)
    if not gains:
        return None
    flat = [gain for own in gains.values() for gain in own]
    mean, low, high = bootstrap([float(np.mean(own)) for own in gains.values()])
    wins = sum((gain > 0) + 0.5 * (gain == 0) for gain in flat) / len(flat)
    return Difference(mean=mean, low=low, high=high, win_rate=wins, prompts=len(gains))


def bootstrap(per_prompt: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95% interval: percentiles over resampled prompts, seed 0."""
    sample = np.array(per_prompt, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(sample), (DRAWS, len(sample)))
    means = sample[draws].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sample.mean()), float(low), float(high)


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


def _mean(found: Sequence[float]) -> float:
    return float(np.mean(found)) if found else float("nan")


def _cells(difference: Difference) -> list[str]:
    """Return a difference with its interval, and the win rate, as cells of the table."""
    interval = f"[{difference.low:+.2f}, {difference.high:+.2f}]"
    return [f"{difference.mean:+.2f} {interval}", f"{difference.win_rate:.0%}"]


def _number(number: float, digits: int = 2) -> str:
    return "" if np.isnan(number) else f"{number:.{digits}f}"


def _cost(name: str, number: float) -> str:
    ratio = name == "guide_flops_ratio" and not np.isnan(number)
    return f"{number:.1%}" if ratio else _number(number, 0)


def _exact(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.6g}"
