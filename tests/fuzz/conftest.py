"""Fuzzing: whatever comes in, only a ``W2SError`` comes out.

``make fuzz`` runs these files for ten minutes with ever new inputs (``W2S_FUZZ_SECONDS`` is the
time of all of them together); the normal run always tries the same, in about a minute.
"""

from __future__ import annotations

import os
import time

import pytest

SECONDS = float(os.environ.get("W2S_FUZZ_SECONDS", "0"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell every fuzz test how long it may run."""
    own = [item for item in items if "fuzz" in item.path.parts]
    for item in own:
        item.user_properties.append(("seconds", SECONDS / len(own)))


@pytest.fixture
def until(request: pytest.FixtureRequest) -> float | None:
    """The moment (``time.monotonic``) at which this test should end; None in the normal run."""
    if not SECONDS:
        return None
    return time.monotonic() + dict(request.node.user_properties)["seconds"]
