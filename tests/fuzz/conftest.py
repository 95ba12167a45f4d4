"""Fuzzing: whatever comes in, only a ``W2SError`` comes out.

``make fuzz`` runs these files for ten minutes; in the normal run the whole folder takes a minute.
``W2S_FUZZ_SECONDS`` is the time of all of them together.
"""

from __future__ import annotations

import os
import time

import pytest

SECONDS = float(os.environ.get("W2S_FUZZ_SECONDS", "60"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell every fuzz test how long it may run."""
    own = [item for item in items if "fuzz" in item.path.parts]
    for item in own:
        item.user_properties.append(("seconds", SECONDS / len(own)))


@pytest.fixture
def until(request: pytest.FixtureRequest) -> float:
    """The moment (``time.monotonic``) at which this test should end."""
    return time.monotonic() + dict(request.node.user_properties)["seconds"]
