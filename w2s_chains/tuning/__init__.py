"""Choose a search for a task: try many on few prompts, few on many, and confirm the last ones."""

from __future__ import annotations

from w2s_chains.tuning.halving import Standing
from w2s_chains.tuning.report import Tuning
from w2s_chains.tuning.run import tune

__all__ = ["Standing", "Tuning", "tune"]
