"""Compare configs on the same prompts with the same rewards."""

from __future__ import annotations

from w2s_chains.comparison.rows import Row
from w2s_chains.comparison.run import Comparison, compare
from w2s_chains.comparison.study import Study, load_study
from w2s_chains.comparison.summary import Difference, Line, Summary, compare_paired, summarize

__all__ = [
    "Comparison",
    "Difference",
    "Line",
    "Row",
    "Study",
    "Summary",
    "compare",
    "compare_paired",
    "load_study",
    "summarize",
]
