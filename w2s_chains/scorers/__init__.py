"""The value of a partial answer."""

from w2s_chains.scorers.log_ratio import LogRatioScorer

__all__ = ["LogRatioScorer"]
