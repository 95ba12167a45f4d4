from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.text import Annotation

from tests.helpers.studies import rows
from w2s_chains.comparison import summarize
from w2s_chains.comparison.plots import draw_all, draw_distribution, draw_pareto


def test_plots_show_every_config_and_are_equal_when_drawn_again(tmp_path: Path) -> None:
    found = [
        row
        for n in range(20)
        for row in rows(f"config {n}", {(i, 0): float(i * n % 7) for i in range(6)})
    ]
    found += rows("no gold", {(i, 0): None for i in range(6)})
    names = [*(f"config {n}" for n in range(20)), "no gold", "never run"]
    summary = summarize(found, names, ["gold"], "config 0")
    texts = {text.get_text() for text in draw_pareto(found, summary, "gold").axes[0].texts}
    assert texts == {f"config {n}" for n in range(20)}
    axes = draw_distribution(found, summary, "gold").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == names[:20]
    files = draw_all(found, summary, tmp_path)
    assert [file.name for file in files] == ["pareto-gold.png", "distribution-gold.png"]
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in draw_all(found, summary, tmp_path)] == first
    assert all(image.startswith(b"\x89PNG") for image in first)


def test_the_cost_is_what_is_on_the_x_axis() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    for own, place, label in (
        (rows("a", golds, read_tokens=7), 7, "rows that the large model read"),
        (rows("a", golds), 10, "candidate tokens"),
    ):
        axes = draw_pareto(own, summarize(own, ["a"], ["gold"], "a"), "gold").axes[0]
        assert axes.get_xlabel().startswith(label)
        [text] = axes.texts
        assert isinstance(text, Annotation)
        assert text.xy[0] == place


def test_labels_do_not_lie_on_each_other() -> None:
    found = [
        row for n in range(30) for row in rows(f"c{n}", {(i, 0): 1.0 + n / 1e6 for i in range(3)})
    ]
    summary = summarize(found, [f"c{n}" for n in range(30)], ["gold"], "c0")
    axes = draw_pareto(found, summary, "gold").axes[0]
    labels: list[Any] = list(axes.texts)
    heights = np.sort([label.xyann[1] for label in labels])
    low, high = axes.get_ylim()
    assert np.diff(heights).min() > (high - low) / 40
    assert low <= heights[0]
    assert heights[-1] <= high
