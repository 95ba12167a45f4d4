"""Plot a comparison: reward against rows read, and the distribution of each reward."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from w2s_chains.comparison.report.paired import LEAST, bootstrap, values
from w2s_chains.comparison.report.summary import Summary
from w2s_chains.comparison.rows import Row, write_file

Axes = Any
"""Axes of matplotlib, which does not type most of its options."""

_ROWS = "rows that the large model read per answer, all branches"
_CANDIDATES = "candidate tokens per answer, all branches (no cost; rows read were not counted)"

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")


def draw_all(rows: Sequence[Row], summary: Summary, folder: Path) -> list[Path]:
    """Draw ``pareto-REWARD.png`` and ``distribution-REWARD.png`` for every reward that has values.

    Returns:
        The files that were written.

    Raises:
        W2SError: A file cannot be written.
    """
    files: list[Path] = []
    for reward in summary.rewards:
        for kind, draw in (("pareto", draw_pareto), ("distribution", draw_distribution)):
            if (figure := draw(rows, summary, reward)) is not None:
                path = folder / f"{kind}-{reward}.png"
                save(figure, path)
                files.append(path)
    return files


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG in one step; equal figures give equal files."""
    image = io.BytesIO()
    cast(Any, figure).savefig(image, format="png", dpi=150, metadata={"Software": None})
    write_file(path, image.getvalue())


def draw_pareto(rows: Sequence[Row], summary: Summary, reward: str) -> Figure | None:
    """Draw the mean reward against rows read per answer, with 95% intervals over prompts.

    Too few prompts get no interval. If no config tells what its proposer read, as in rows of older
    versions, the x-axis is candidate tokens and says so; if only some do, the others are left out.
    Return None if there is no point to draw.
    """
    size = (_width(summary, 0.075), max(4.0, 0.28 * len(summary.lines)))
    figure = Figure(figsize=size, layout="constrained")
    axes = cast(Axes, figure.subplots())
    points: list[tuple[float, float, str, str]] = []
    left_out, few = 0, False
    for place, line in enumerate(summary.lines):
        own = [row for row in rows if row.config == line.config]
        per_prompt = means_by_prompt(own, reward)
        if not per_prompt:
            continue
        cost = line.costs["read_tokens" if summary.counts_rows else "proposed_tokens"]
        if np.isnan(cost):
            left_out += 1
            continue
        mean, low, high = bootstrap(per_prompt)
        if len(per_prompt) < LEAST:
            low, high, few = mean, mean, True
        colour = COLOURS[place % len(COLOURS)]
        axes.errorbar(
            cost,
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt="o",
            color=colour,
            capsize=2,
            markersize=5,
            linewidth=1,
        )
        points.append((cost, mean, line.config, colour))
    if not points:
        return None
    cost_axis(axes)
    label_on_the_right(axes, points)
    axes.set_xlabel(_ROWS if summary.counts_rows else _CANDIDATES)
    interval = " (too few prompts for intervals)" if few else " and 95% interval"
    axes.set_ylabel(f"{reward}, mean{interval}")
    without = f"; {left_out} configs without a count of rows" if left_out else ""
    prompts = f"{summary.prompts} prompt{'s' * (summary.prompts != 1)}"
    what = "what it costs" if summary.counts_rows else "of how many candidates"
    axes.set_title(f"{reward}: {what} ({prompts}{without})", loc="left")
    tidy(axes)
    return figure


def draw_distribution(rows: Sequence[Row], summary: Summary, reward: str) -> Figure | None:
    """Draw quartiles of each config's rewards, with whiskers at the 5th and 95th percentile.

    Return None if no answer has this reward.
    """
    size = (_width(summary, 0.1), 1.2 + 0.34 * len(summary.lines))
    figure = Figure(figsize=size, layout="constrained")
    axes = cast(Axes, figure.subplots())
    found = [
        (line.config, own)
        for line in summary.lines
        if (own := values((row for row in rows if row.config == line.config), reward))
    ]
    if not found:
        return None
    boxes = axes.boxplot(
        [own for _, own in found],
        orientation="horizontal",
        whis=(5, 95),
        showmeans=True,
        meanprops={"marker": "D", "markerfacecolor": "black", "markeredgecolor": "black"},
        medianprops={"color": "black"},
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 3, "alpha": 0.4},
        widths=0.6,
    )
    for place, box in enumerate(boxes["boxes"]):
        box.set_facecolor(COLOURS[place % len(COLOURS)])
        box.set_alpha(0.6)
    axes.set_yticks(range(1, len(found) + 1), [plain(name) for name, _ in found])
    axes.invert_yaxis()
    axes.set_xlabel(reward)
    axes.set_title(f"{reward} of every answer; diamond: mean", loc="left")
    tidy(axes)
    return figure


def _width(summary: Summary, character: float) -> float:
    """Return the inches of a figure with room for names, of so many inches a character."""
    longest = max((len(line.config) for line in summary.lines), default=0)
    return max(8.0, 5.0 + character * longest)


def means_by_prompt(rows: Sequence[Row], reward: str) -> list[float]:
    """Return the mean over seeds for each prompt: prompts, not answers, are independent."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if own := values([row], reward):
            found.setdefault(row.index, []).extend(own)
    return [float(np.mean(own)) for own in found.values()]


def label_on_the_right(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], size: float = 8
) -> None:
    """Write names in a column beside the axes, each with a thin line to its point.

    Args:
        axes: The axes; their limits become fixed.
        points: x, y, name and colour of each point.
        size: Font size, in points.
    """
    if not points:
        return
    low, high = axes.get_ylim()
    inches = 0.8 * axes.figure.get_figheight()  # of the axes, about
    gap = (high - low) * min(1.5 * size / 72 / inches, 1 / len(points))
    ordered = sorted(points, key=lambda point: point[1])
    heights = _apart([y for _, y, _, _ in ordered], gap)
    axes.set_ylim(min(low, heights[0] - gap), max(high, heights[-1] + gap))
    for (x, y, name, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            plain(name),
            xy=(x, y),
            xytext=(1.03, height),
            textcoords=axes.get_yaxis_transform(),
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def plain(name: str) -> str:
    """Return a name in which no dollar begins a formula."""
    return name.replace("$", r"\$")


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights as little as possible so that they are ``gap`` apart.

    This is isotonic regression.
    """
    blocks: list[list[float]] = []  # neighbours that touch; they keep their mean
    for place, height in enumerate(heights):
        blocks.append([height - place * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    level = [float(np.mean(block)) for block in blocks for _ in block]
    return [own + place * gap for place, own in enumerate(level)]


def cost_axis(axes: Axes) -> None:
    """Make the x-axis logarithmic, with whole numbers that people read."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes) -> None:
    """Remove the upper and right frame, and add a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
