"""Whatever a config holds, it is read, or refused with a ConfigError."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.configs import NAMES, WHOLE, outcome
from w2s_chains import ChunkBeamSearch
from w2s_chains.config.files import load_config

LEAVES = st.sampled_from(["chunk_beam", "sampling", "{prompt}", "x", True, 1, 0, -1, 1.5, None])
ANYTHING = st.recursive(
    LEAVES | st.text(max_size=5) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), ANYTHING, max_size=5))
@example({"proposer": {"model": "x"}, "strategy": {"type": ["chunk_beam"], "x": 1}})
@example({"proposer": {"model": "x"}, "guide": {"tuned": [1], "untuned": {"spec": 1}}})
def test_a_random_mapping_is_read_or_refused(values: dict[str, Any]) -> None:
    told = outcome(values)
    assert told is None or told.startswith("config: ")


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, len(WHOLE)), count=st.integers(0, 12),
    new=st.text(max_size=4) | st.sampled_from(["- ", ": ", "\n", "{", "&a ", "*a", "!!int ", "? "]),
)  # fmt: skip
def test_a_garbled_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, count: int, new: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbled.yaml"
    text = WHOLE[:at] + new + WHOLE[at + count :]
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = outcome(path)
    assert told is None or str(path) in told


def test_the_whole_file_is_fine(tmp_path: Path) -> None:
    """Control for all tests above that garble it."""
    path = tmp_path / "w.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    assert load_config(path).strategy == ChunkBeamSearch(width=2, successors=2, chunk_tokens=4)
