from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from tests.helpers.studies import rows
from w2s_chains.comparison import Row, Summary, summarize
from w2s_chains.comparison.report.plots import draw_all, draw_distribution, draw_pareto


def pareto(found: Sequence[Row], summary: Summary) -> Figure:
    figure = draw_pareto(found, summary, "gold")
    assert figure is not None
    return figure


def test_plots_show_every_config_and_are_equal_when_drawn_again(tmp_path: Path) -> None:
    found = [
        row
        for n in range(20)
        for row in rows(f"config {n}", {(i, 0): float(i * n % 7) for i in range(6)})
    ]
    found += rows("no gold", {(i, 0): None for i in range(6)})
    names = [*(f"config {n}" for n in range(20)), "no gold", "never run"]
    summary = summarize(found, names, ["gold"], "config 0")
    texts = {text.get_text() for text in pareto(found, summary).axes[0].texts}
    assert texts == {f"config {n}" for n in range(20)}
    figure = draw_distribution(found, summary, "gold")
    assert figure is not None
    axes = figure.axes[0]
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
        axes = pareto(own, summarize(own, ["a"], ["gold"], "a")).axes[0]
        assert axes.get_xlabel().startswith(label)
        [text] = axes.texts
        assert isinstance(text, Annotation)
        assert text.xy[0] == place


def test_labels_do_not_lie_on_each_other() -> None:
    found = [
        row for n in range(30) for row in rows(f"c{n}", {(i, 0): 1.0 + n / 1e6 for i in range(3)})
    ]
    summary = summarize(found, [f"c{n}" for n in range(30)], ["gold"], "c0")
    axes = pareto(found, summary).axes[0]
    labels: list[Any] = list(axes.texts)
    heights = np.sort([label.xyann[1] for label in labels])
    low, high = axes.get_ylim()
    assert np.diff(heights).min() > (high - low) / 40
    assert low <= heights[0]
    assert heights[-1] <= high


@pytest.mark.parametrize("configs", [1, 2, 12, 30])
@pytest.mark.parametrize("name", ["c{}", "chunk_beam width={} successors=4 chunk_tokens=5 $x$ $"])
def test_every_name_is_legible(configs: int, name: str) -> None:
    """In the drawn picture: names lie on no other, on no point, and inside."""
    names = [name.format(n) for n in range(configs)]
    found = [
        row
        for n, own in enumerate(names)
        for row in rows(own, {(i, 0): n % 3 + n / 1e3 for i in range(9)}, read_tokens=40 + n % 4)
    ]
    figure = pareto(found, summarize(found, names, ["gold"], names[0]))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    drawn = [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]
    assert len(drawn) == configs
    inside = axes.get_window_extent()
    assert inside.width > 0.3 * figure.bbox.width, "names leave room for the points"
    for at, box in enumerate(drawn):
        assert box.x0 >= inside.x1, "beside the points"
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in drawn[at + 1 :])


def test_few_prompts_get_a_point_without_an_interval() -> None:
    for prompts, told in ((7, "too few prompts for intervals"), (8, "95% interval")):
        own = rows("a", {(i, 0): float(i) for i in range(prompts)}, read_tokens=7)
        axes = pareto(own, summarize(own, ["a"], ["gold"], "a")).axes[0]
        assert told in axes.get_ylabel()
        [bar] = axes.containers
        [lines] = cast("Any", bar).lines[2]
        [(low, high)] = [segment[:, 1] for segment in lines.get_segments()]
        assert (high - low > 1) == (prompts == 8)


def test_what_has_no_values_has_no_plot(tmp_path: Path) -> None:
    found = rows("a", {(0, 0): None})
    assert draw_all(found, summarize(found, ["a"], ["gold"], "a"), tmp_path) == []
    assert not list(tmp_path.iterdir())
