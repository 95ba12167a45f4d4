"""What ``tune`` writes: ``recommended.yaml``, ``tuning.md`` and ``front.png``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from w2s_chains.comparison import Comparison
from w2s_chains.comparison.report.paired import Difference
from w2s_chains.comparison.rows import write_file
from w2s_chains.config.files import write_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.tuning.halving import Standing, front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COSTS = {"read_tokens": "rows read", "seconds": "seconds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What came out of ``tune``.

    Attributes:
        recommended: Name of the recommended candidate; "sampling" if none is better than that by a
            95% interval that excludes 0.
        config: Its config, which is in ``recommended.yaml``, too.
        objective: The column that was maximised.
        cost: The column of ``Standing.cost``: "read_tokens", or "seconds".
        confirmed: Plain sampling and the last candidates, on prompts that chose nothing.
        gains: The paired difference of each of them to plain sampling, there.
        tried: All candidates, as they stood when they were last tried to choose.
        left_out: Why other candidates were not tried.
        confirmation: Rows and table of the confirmation.
        folder: The folder with all files.
    """

    recommended: str
    config: W2SConfig
    objective: str
    cost: str
    confirmed: tuple[Standing, ...]
    gains: Mapping[str, Difference]
    tried: tuple[Standing, ...]
    left_out: Mapping[str, str]
    confirmation: Comparison
    folder: Path

    @property
    def verdict(self) -> str:
        """The recommendation in a sentence, with its numbers."""
        gain = self.gains.get(self.recommended)
        if gain is None:
            return (
                f"No candidate has more {self.objective} than plain sampling by an interval that "
                "excludes 0, so plain sampling it is; give more prompts or minutes."
            )
        standing = next(s for s in self.confirmed if s.name == self.recommended)
        return (
            f"Recommended: {self.recommended!r}, {_gain(gain)} {self.objective} over plain "
            f"sampling at {_cost(standing)} {_COSTS[self.cost]} per answer, on {gain.prompts} "
            "prompts that took no part in the choice."
        )


def write(tuning: Tuning, plots: bool) -> None:
    """Write the files; draw the front if there shall be ``plots``.

    Raises:
        W2SError: A file cannot be written.
    """
    path = tuning.folder / "recommended.yaml"
    write_config(tuning.config, path)
    why = textwrap.fill(tuning.verdict, initial_indent="# ", subsequent_indent="# ")
    write_file(path, f"{why}\n{path.read_text('utf-8')}".encode())
    write_file(tuning.folder / "tuning.md", markdown(tuning).encode())
    if plots:
        from w2s_chains.comparison.report.plots import save

        save(front_figure(tuning), tuning.folder / "front.png")


def markdown(tuning: Tuning) -> str:
    """Return the report."""
    cost = _COSTS[tuning.cost]
    lines = [
        "# Tuning",
        "",
        tuning.verdict,
        "",
        "## Confirmed on fresh prompts",
        "",
        *_table(
            ["candidate", "prompts", tuning.objective, "over sampling", cost, "brakes"],
            [
                [*_cells(s)[:3], _gain(tuning.gains.get(s.name)), *_cells(s)[3:]]
                for s in tuning.confirmed
            ],
        ),
        "",
        "The difference is paired, with a 95% interval by bootstrap over prompts; all else is in "
        "`confirmation/summary.md`.",
        "",
        "## Tried",
        "",
        *_table(
            ["candidate", "prompts", tuning.objective, cost, "brakes"],
            [_cells(s) for s in sorted(tuning.tried, key=lambda s: (-s.prompts, s.cost))],
        ),
        "",
        "Numbers that have chosen are too good for those that were chosen. Candidates with fewer "
        "prompts left earlier.",
    ]
    if tuning.left_out:
        lines += ["", "## Not tried", ""]
        lines += [f"* {name}: {why}" for name, why in tuning.left_out.items()]
    return "\n".join(lines) + "\n"


def front_figure(tuning: Tuning) -> Figure:
    """Draw all candidates, the front of those that were tried, and the confirmed ones."""
    from matplotlib.figure import Figure

    from w2s_chains.comparison.report.plots import COLOURS, cost_axis, label_on_the_right, tidy

    figure = Figure(figsize=(8, max(4.0, 0.3 * len(tuning.tried))), layout="constrained")
    axes = cast(Any, figure.subplots())
    tried = [s for s in tuning.tried if not np.isnan(s.value)]
    for standing in tried:
        colour = "lightgrey" if standing.brakes else COLOURS[0]
        axes.plot(standing.cost, standing.value, "o", color=colour, markersize=5)
    edge = front(tried)
    axes.step(
        [s.cost for s in edge],
        [s.value for s in edge],
        where="post",
        color=COLOURS[0],
        linewidth=0.8,
        label="front of the choice",
    )
    for standing in tuning.confirmed:
        chosen = standing.name == tuning.recommended
        axes.plot(
            standing.cost,
            standing.value,
            "*" if chosen else "D",
            color=COLOURS[2],
            markersize=12 if chosen else 5,
        )
    axes.plot([], [], "o", color="lightgrey", label="with brakes")
    axes.plot([], [], "D", color=COLOURS[2], label="confirmed on fresh prompts")
    axes.plot([], [], "*", color=COLOURS[2], markersize=10, label="recommended")
    cost_axis(axes)
    label_on_the_right(axes, [(s.cost, s.value, s.name, "grey") for s in tried])
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_xlabel(f"{_COSTS[tuning.cost]} per answer")
    axes.set_ylabel(f"mean {tuning.objective}")
    tidy(axes)
    return figure


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, line, *rows)]


def _cells(standing: Standing) -> list[str]:
    return [
        standing.name,
        str(standing.prompts),
        f"{standing.value:.2f}",
        _cost(standing),
        ", ".join(standing.brakes),
    ]


def _cost(standing: Standing) -> str:
    return f"{standing.cost:.0f}" if standing.cost >= 10 else f"{standing.cost:.2g}"


def _gain(difference: Difference | None) -> str:
    if difference is None:
        return ""
    return f"{difference.mean:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
