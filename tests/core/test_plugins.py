"""Parts are found by the names of entry points, and nothing else is imported."""

from __future__ import annotations

import sys

import pytest
from pydantic import BaseModel

from w2s_chains.core.slots import Slot
from w2s_chains.errors import ConfigError, did_you_mean


def test_did_you_mean() -> None:
    assert did_you_mean("widht", ["width", "n"]) == "; did you mean 'width'? (choices: n, width)"
    assert did_you_mean("zzz", ["width", "n"]) == " (choices: n, width)"


@pytest.mark.parametrize("kind", ["scorers", "proposers", "rewards", "strategies"])
def test_nothing_is_imported_for_names_that_are_no_entry_points(kind: str) -> None:
    assert "this" not in sys.modules  # a module that prints when it is imported
    for name in ("os.system", "this", "this:s", "tests.config.test_plugins:Constant", ""):
        with pytest.raises(ConfigError, match="unknown"):
            Slot(kind="part", base=BaseModel, builtins={}, group=f"w2s_chains.{kind}").find(name)
    assert "this" not in sys.modules
