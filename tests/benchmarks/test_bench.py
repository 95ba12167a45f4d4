"""The benchmark runs: its numbers are for people, and nothing here looks at them."""

from __future__ import annotations

import pytest

from tests.benchmarks import bench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def subject():
    return bench.Subject()


def test_a_line_is_measured_against_its_floor(subject):
    works = [
        bench.beam(2, 2, 2, 10, 4, goal=1.0),
        bench.beam(2, 2, 2, 10, 4, prompts=4, floor="F3"),
        bench.beam(2, 2, 2, 10, 4, prompts=4, floor="alone"),
    ]
    lines = [bench.measure(subject, work, 2 if i == 0 else 1) for i, work in enumerate(works)]
    table = [line for line in bench.report(subject, lines).splitlines() if line.startswith("| 2,2")]
    assert len(table) == 3
    assert all(ratio > 0 for line in lines for ratio in line.ratios())
    assert all(0 < share < 1 for line in lines for share in line.overhead)


def test_growing_work_costs_more(subject):
    """The control: the measure is of the work."""
    short, long = (bench.measure(subject, bench.beam(1, 1, 4, 10, n), 1) for n in (2, 24))
    assert long.cpu() > 2 * short.cpu()
