"""The tree of one search as a value: ``Trace``, built from events, with JSON and a page."""

from w2s_chains.tracing.builder import TraceBuilder
from w2s_chains.tracing.trace import TokenRatio, Trace, TracedAnswer, TraceNode, TraceRound

__all__ = ["TokenRatio", "Trace", "TraceBuilder", "TraceNode", "TraceRound", "TracedAnswer"]
