"""Compare configs on the same prompts with the same rewards."""

from __future__ import annotations

from w2s_chains.comparison.report.paired import Difference, compare_paired
from w2s_chains.comparison.report.summary import Line, Summary, summarize
from w2s_chains.comparison.rows import Row
from w2s_chains.comparison.run import Comparison, compare
from w2s_chains.comparison.study import Study, load_study

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
