"""What fuzz tests share: running for a time, strategies for wild values, and the one assertion."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from w2s_chains.errors import W2SError

LONGEST = 20.0
"""Seconds in which every input must be read or refused."""

EXAMPLES = 100
"""Inputs of one run of hypothesis."""

LEAST = 20
"""Inputs even if the time is over."""


def fuzz(
    check: Callable[[Any], object], inputs: st.SearchStrategy[Any], until: float | None
) -> int:
    """Call ``check`` with wild inputs; return how many there were.

    Args:
        check: What is tried.
        inputs: What it is tried with.
        until: Try ever new inputs until then (``time.monotonic``); None tries the same few always,
            so that a run of CI does not depend on luck.

    Raises:
        AssertionError: An input made something else than a W2SError, or took too long; hypothesis
            has made it as small as it could.
    """
    count = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=until is None,
        database=None,
        suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        phases=(Phase.generate, Phase.shrink),
    )
    @given(inputs)
    def some(value: Any) -> None:
        nonlocal count
        if until is not None and count >= LEAST and time.monotonic() > until:
            return
        count += 1
        told(check, value)

    while True:
        some()
        if until is None or time.monotonic() > until:
            return count


def told(check: Callable[[Any], object], value: Any) -> str | None:
    """The error of one input; None if it is taken.

    Raises:
        AssertionError: It is no W2SError, its message is endless, or it took too long.
    """
    began = time.monotonic()
    try:
        check(value)
        message = None
    except W2SError as error:
        message = str(error)
        assert message.strip(), "an error says something"
        assert len(message) < 20_000, f"an endless message: {message[:300]}"
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} instead of a W2SError: {error}") from error
    assert time.monotonic() - began < LONGEST
    return message


TEXT = st.text(max_size=8) | st.sampled_from(
    ["\ud800", "\0", "\ufeff", "\u2028", "{prompt}", "{{", "%s", "[bold]", "../..", "~", "é" * 50]
)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([10**9, 2**63, 2**64, -(2**63), 10**4000, sys.maxsize, 0, -1, 1e308])
)
LEAVES = TEXT | NUMBERS | st.booleans() | st.none() | st.binary(max_size=4) | st.dates()


def anything(names: list[str], leaves: st.SearchStrategy[Any] = LEAVES) -> st.SearchStrategy[Any]:
    """Values in one another, whose keys are mostly ``names``."""
    keys = st.sampled_from(names) | TEXT | st.integers(-1, 2)
    return st.recursive(
        leaves | st.sampled_from(names),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(keys, inner, max_size=5)
            | st.integers(0, 300).flatmap(lambda depth: inner.map(lambda v: nested(v, depth)))
        ),
        max_leaves=15,
    )


def nested(value: Any, depth: int) -> Any:
    """A value in ``depth`` lists."""
    for _ in range(depth):
        value = [value]
    return value


def garbled(text: str) -> st.SearchStrategy[str]:
    """Versions of a text in which a few places are changed, doubled or taken out."""
    pieces = st.sampled_from(
        ["- ", ": ", "\n", "{", "[", "}", "]", "&a ", "*a", "<<: *a", "!!int ", "!!binary ", "? ",
         "|", ">", "'", '"', "#", "\t", "---\n", "010", "1:30", "yes", ".nan", "9" * 5000, "\0",
         "\ud800", "\ufeff", "[" * 300, "a: " * 50]
    ) | st.text(max_size=6)  # fmt: skip
    edits = st.lists(
        st.tuples(st.integers(0, len(text)), st.integers(0, 12), pieces), min_size=1, max_size=4
    )

    def edited(changes: list[tuple[int, int, str]]) -> str:
        found = text
        for at, count, new in changes:
            found = found[:at] + new + found[at + count :]
        return found

    return edits.map(edited)
