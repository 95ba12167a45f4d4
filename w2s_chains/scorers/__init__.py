"""The value of a partial answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from w2s_chains.plugins import build_plugin
from w2s_chains.scorers.base import ScorerConfig
from w2s_chains.scorers.log_ratio import LogRatio, LogRatioScorer

SCORERS: Mapping[str, type[ScorerConfig]] = {"log_ratio": LogRatio}


def build_scorer(value: Any) -> Any:
    """The config of a scorer from a mapping, which is of type ``log_ratio`` if it has none."""
    return build_plugin("scorers", value, SCORERS, default="log_ratio")


AnyScorer = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(build_scorer)]
"""A config slot for a scorer."""

__all__ = [
    "SCORERS",
    "AnyScorer",
    "LogRatio",
    "LogRatioScorer",
    "ScorerConfig",
    "build_scorer",
]
