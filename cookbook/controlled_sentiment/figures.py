"""Make the figures and the tables of docs/results.md from the committed rows.

python -m cookbook.controlled_sentiment.figures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure

from w2s_chains.comparison import Difference, Row, compare_paired, summarize
from w2s_chains.comparison.report.paired import bootstrap, values
from w2s_chains.comparison.report.plots import COLOURS, Axes, means_by_prompt, save, tidy
from w2s_chains.comparison.rows import JsonLines, write_file

RESULTS = Path(__file__).parent / "results"
BY_ROWS = Path(__file__).parent / "by_rows"
BUDGET = 16
"""Width times successors (W * K) of the ablation."""

Rows = Mapping[str, list[Row]]


def read(folder: Path = RESULTS) -> dict[str, list[Row]]:
    """Return the rows of each config, in the order of the study."""
    found: dict[str, list[Row]] = {}
    for row in JsonLines(folder / "rows.jsonl", Row).read():
        found.setdefault(row.config, []).append(row)
    return found


def main_figure(rows: Rows) -> Figure:
    """Draw gold, VADER and repetition of every method and control."""
    names = headline(rows)
    figure = Figure(figsize=(10, 0.9 + 0.33 * len(names)), layout="constrained")
    panels = cast(Sequence[Axes], figure.subplots(1, 3, sharey=True, width_ratios=(3, 2, 2)))
    columns = {"gold": "gold reward (log-odds)", "vader": "VADER", "repetition": "repetition"}
    for axes, (column, title) in zip(panels, columns.items(), strict=True):
        for place, name in enumerate(names):
            errorbar(axes, rows[name], column, place, colour_of(name), horizontal=True)
        base = float(np.mean(values(rows["base"], column)))
        axes.axvline(base, color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlabel(title)
        tidy(axes)
    panels[0].set_yticks(range(len(names)), [label(rows, name) for name in names])
    panels[0].invert_yaxis()
    title = f"in brackets: {costs_of(rows)[1]} per answer"
    panels[0].set_title(title, x=0, ha="right", fontsize=9)
    return figure


def ablation_figure(rows: Rows) -> Figure:
    """Draw the ablation: other splits of the same W*K, and other chunk lengths."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    splits = [(w, BUDGET // w) for w in (1, 2, 4, 8, 16)]
    for place, (width, successors) in enumerate(splits):
        name = f"chunk beam {width},{successors},5"
        errorbar(left, rows[name], "gold", place, COLOURS[0])
    left.set_xticks(range(len(splits)), [f"{w},{k}" for w, k in splits])
    left.set_xlabel("beam width W, successors K (chunks of L = 5 tokens)")
    left.set_ylabel("gold reward, mean and 95% interval")
    lengths = {"5": "chunk beam 4,4,5", "10": "chunk beam 4,4,10", "50 (best-of-16)": "best-of-16"}
    for place, name in enumerate(lengths.values()):
        errorbar(right, rows[name], "gold", place, COLOURS[0])
    errorbar(right, rows["chunk beam 2,2,10"], "gold", 1.2, COLOURS[2])
    errorbar(right, rows["best-of-4"], "gold", 2.2, COLOURS[2])
    right.plot([], [], "o", color=COLOURS[0], label="W, K = 4, 4")
    right.plot([], [], "o", color=COLOURS[2], label="W, K = 2, 2")
    right.legend(frameon=False)
    right.set_xticks(range(len(lengths)), list(lengths))
    right.set_xlabel("chunk length L, in tokens (answers have 50)")
    for axes in (left, right):
        axes.axhline(
            float(np.mean(values(rows["base"], "gold"))), color="grey", lw=0.8, linestyle=":"
        )
        tidy(axes)
    left.set_title("16 partial answers, split", loc="left")
    right.set_title("shorter chunks", loc="left")
    return figure


def headline(rows: Rows) -> list[str]:
    """Return all configs except those of the ablation."""
    kept = ("chunk beam 4,4,5", "chunk beam 4,4,5, same vocabulary")
    return [name for name in rows if not name.startswith("chunk beam") or name in kept]


def results_table(rows: Rows) -> str:
    """Return the table of docs/results.md: gold against the base, and against best-of-16."""
    flat = [row for own in rows.values() for row in own]
    over_base, over_best = (
        {line.config: line for line in summarize(flat, list(rows), ["gold", "vader"], name).lines}
        for name in ("base", "best-of-16")
    )
    lines = [
        "| | answers | gold | over base | over best-of-16 | VADER | repetition | loglikelihood "
        f"| {costs_of(rows)[1]} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in headline(rows):
        line = over_base[name]
        gains = [of[name].differences.get("gold") for of in (over_base, over_best)]
        means = [f"{line.means[c]:.2f}" for c in ("vader", "repetition", "loglikelihood")]
        told_gains = map(_interval, gains)
        cells = [name, str(line.answers), f"{line.means['gold']:+.2f}", *told_gains, *means]
        lines.append(f"| {' | '.join([*cells, f'{line.costs[costs_of(rows)[0]]:.0f}'])} |")
    return "\n".join(lines) + "\n"


def by_rows_table(rows: Rows) -> str:
    """Return the second table of docs/results.md: gold and its price, against base and 4,4,5."""
    beam, columns = "chunk beam 4,4,5", ["gold", "vader"]
    flat = [row for own in rows.values() for row in own]
    over_base, over_beam = (
        {line.config: line for line in summarize(flat, list(rows), columns, name).lines}
        for name in ("base", beam)
    )
    lines = [
        f"| | answers | rows read | gold | over base | over {beam} | VADER | repetition over base "
        "| loglikelihood over base | guide FLOPs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, own in rows.items():
        line = over_base[name]
        gains = [of[name].differences.get("gold") for of in (over_base, over_beam)]
        changes = [
            None if name == "base" else compare_paired(own, rows["base"], column)
            for column in ("repetition", "loglikelihood")
        ]
        cells = [
            name,
            str(line.answers),
            f"{line.costs['read_tokens']:.0f}",
            f"{line.means['gold']:+.2f}",
            *(_interval(gain) for gain in gains),
            f"{line.means['vader']:.2f}",
            *(_interval(change) for change in changes),
            f"{line.costs['guide_flops_ratio']:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(found: Difference | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def colour_of(name: str) -> str:
    """Return the colour of a kind of method."""
    kinds = ("best-of", "chunk beam", "emulated", "steering", "control")
    place = next((i for i, kind in enumerate(kinds) if name.startswith(kind)), None)
    return "black" if place is None else COLOURS[place]


def label(rows: Rows, name: str) -> str:
    """Return a config's name with what the large model read per answer, if the rows tell."""
    counts = [getattr(row, costs_of(rows)[0]) for row in rows[name]]
    return f"{name}  ({np.mean(counts):.0f})"


def costs_of(rows: Rows) -> tuple[str, str]:
    """Return the column to show beside each config, and its title.

    Rows of older versions tell only the candidates; unless every row tells more, these are shown.
    """
    told = all(row.read_tokens is not None for own in rows.values() for row in own)
    return ("read_tokens", "rows read") if told else ("proposed_tokens", "candidate tokens")


def errorbar(
    axes: Axes, rows: list[Row], column: str, place: float, colour: str, *, horizontal: bool = False
) -> None:
    """Draw the mean of a column with its 95% interval over prompts."""
    mean, low, high = bootstrap(means_by_prompt(rows, column))
    error = [[mean - low], [high - mean]]
    style: dict[str, Any] = {"fmt": "o", "color": colour, "capsize": 3, "markersize": 5}
    if horizontal:
        axes.errorbar(mean, place, xerr=error, **style)
    else:
        axes.errorbar(place, mean, yerr=error, **style)


def draw_figures(folder: Path = RESULTS, by_rows: Path = BY_ROWS) -> None:
    """Make tables and figures from the rows in the folders, and write them there."""
    write_file(by_rows / "table.md", by_rows_table(read(by_rows)).encode())
    rows = read(folder)
    write_file(folder / "table.md", results_table(rows).encode())
    save(main_figure(rows), folder / "main.png")
    save(ablation_figure(rows), folder / "ablation.png")


if __name__ == "__main__":
    draw_figures()
