"""``Summary``: the table of a comparison, with means, paired differences and their intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from w2s_chains.comparison.report.columns import (
    ALWAYS,
    COSTS,
    MEANINGS,
    OLD_GUIDE_TOKENS,
    about_rewards,
    costs,
)
from w2s_chains.comparison.report.escape import for_markdown
from w2s_chains.comparison.report.paired import LEAST, ROUGH, Difference, compare_paired, values
from w2s_chains.comparison.report.terminal import make_console, print_legend, print_table
from w2s_chains.comparison.rows import Row


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
        meanings: What the rewards mean, with their units and which way is better.
    """

    baseline: str
    rewards: tuple[str, ...]
    lines: tuple[Line, ...]
    prompts: int
    meanings: Mapping[str, str] = field(default_factory=dict[str, str])

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
        """How many prompts the table rests on, and whether they are too few for its intervals."""
        shared = [d.prompts for line in self.lines for d in line.differences.values()]
        few = min(shared, default=self.prompts)
        told = f"{self.prompts} prompt{'s' * (self.prompts != 1)}"
        if few < self.prompts:
            told += f", but only {few} that a config shares with {self.baseline!r}"
        if not shared or few >= ROUGH:
            return f"{told}."
        if few < LEAST:
            return (
                f"{told}: too few to say which config is better. A difference may be chance, and "
                f"gets no interval. Use {LEAST} prompts or more, better {ROUGH} or more."
            )
        return (
            f"{told}: so few that the intervals are rough, and narrower than they should be. Use "
            f"{ROUGH} prompts or more."
        )

    @property
    def legend(self) -> list[tuple[str, str]]:
        """Each column of the table and what it means, in order, without the configs' names."""
        own = dict(MEANINGS)
        if not self.counts_rows:
            own["guide tokens"] = OLD_GUIDE_TOKENS
        others = [name for header, _ in self.tables()[bool(self.rewards) :] for name in header[1:]]
        return [
            *about_rewards(self.rewards, self.meanings, self.baseline),
            *((name, own[name]) for name in others),
        ]

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return header and rows of tables for people: rewards, answers, costs."""
        judged = ["config"]
        for name in self.rewards:
            judged += [name, "difference", "win"]
        failures = ["failed"] if any(line.failed for line in self.lines) else []
        about = ["config", "answers", *failures, "guide score", *ALWAYS, *self._kl_column]
        cost = ["config", *self._costs.values()]
        judged_rows: list[list[str]] = []
        about_rows: list[list[str]] = []
        cost_rows: list[list[str]] = []
        for line in self.lines:
            row = [line.config]
            for name in self.rewards:
                difference = line.differences.get(name)
                row += [_number(line.means[name])]
                row += ["", ""] if difference is None else _cells(difference)
            judged_rows.append(row)
            row = [line.config, str(line.answers), *(str(line.failed) for _ in failures)]
            row += [_number(line.means[c]) for c in ("guide_score", *ALWAYS)]
            row += [_number(line.means["kl"]) for _ in self._kl_column]
            about_rows.append(row)
            cost_rows.append([line.config, *(_cost(c, line.costs[c]) for c in self._costs)])
        found = [(judged, judged_rows), (about, about_rows), (cost, cost_rows)]
        return [(header, rows) for header, rows in found if len(header) > 1]

    def print(self) -> None:
        """Show the tables in the terminal, and what their columns mean.

        Columns that do not fit side by side go into further tables. If even a reward alone does
        not fit beside the configs' names, every number gets a line of its own.
        """
        console = make_console()
        for at, (header, rows) in enumerate(self.tables()):
            # A reward, its difference and its win rate stay together.
            print_table(console, header, rows, 3 if self.rewards and at == 0 else 1)
        console.print(self.caption)
        console.print()
        print_legend(console, self.legend)
        console.print()

    def markdown(self) -> str:
        """Return one wide table, and what its columns mean."""
        tables = self.tables()
        header = [name for header, _ in tables for name in header[header is not tables[0][0] :]]
        rows = [
            [cell for part in parts for cell in part[part is not parts[0] :]]
            for parts in zip(*(rows for _, rows in tables), strict=True)
        ]
        legend = (f"* {for_markdown(name)}: {for_markdown(m)}\n" for name, m in self.legend)
        return f"{markdown_table(header, rows)}\n{self.caption}\n\n{''.join(legend)}"

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
    rows: Iterable[Row],
    configs: Sequence[str],
    rewards: Sequence[str],
    baseline: str,
    meanings: Mapping[str, str] | None = None,
) -> Summary:
    """Make the table.

    Args:
        rows: The rows, in any order.
        configs: Names of the configs, in the order of the table.
        rewards: Names of the rewards, in order; repetition and loglikelihood are always included.
        baseline: The config to compare the others with.
        meanings: What the rewards mean, as ``Reward.meaning`` says it; by default that higher is
            better.
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
    return Summary(
        baseline=baseline,
        rewards=tuple(columns),
        lines=tuple(lines),
        prompts=prompts,
        meanings=meanings or {},
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], last: str = "---:") -> str:
    """Write a table as Markdown: the first column to the left, the others to the right.

    Args:
        header: The titles.
        rows: The cells; any text.
        last: The rule of the last column, ``---`` if it is text.
    """
    rule = ["---", *["---:"] * (len(header) - 2), *[last] * (len(header) > 1)]
    cells = [[for_markdown(cell) for cell in line] for line in (header, *rows)]
    cells.insert(1, rule)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _mean(found: Sequence[float]) -> float:
    return float(np.mean(found)) if found else float("nan")


def _cells(difference: Difference) -> list[str]:
    """Return a difference with its interval, and the win rate, as cells of the table."""
    interval = f"[{difference.low:+.2f}, {difference.high:+.2f}]"
    if difference.prompts < LEAST:
        interval = "[too few prompts]"
    return [f"{difference.mean:+.2f} {interval}", f"{difference.win_rate:.0%}"]


def _number(number: float, digits: int = 2) -> str:
    return "" if np.isnan(number) else f"{number:.{digits}f}"


def _cost(name: str, number: float) -> str:
    if name == "guide_flops_ratio":
        return "" if np.isnan(number) else f"{number:.1%}"
    return _number(number, 2 if name == "seconds" and number < 100 else 0)


def _exact(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.6g}"
