"""On a GPU every tensor of a model's work lies there: shown without one (``pretend_gpu``)."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.helpers.pretend_gpu"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return dict(line.split(": ", 1) for line in run.stdout.splitlines())


@pytest.mark.parametrize("case", ["search", "recorded", "steering"])
def test_no_tensor_of_the_host_meets_one_of_the_device(told: dict[str, str], case: str) -> None:
    assert told[case] == "done"


@pytest.mark.parametrize("part", ["positions", "mask"])
def test_one_that_does_is_found(told: dict[str, str], part: str) -> None:
    """Control."""
    assert "same device" in told[f"{part} on the host"]
