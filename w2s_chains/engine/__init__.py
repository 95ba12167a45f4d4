"""Runs searches: interleaves them, and answers what they ask for in batches."""

from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.scheduler import Engine, shared_engine

__all__ = ["Engine", "Job", "SearchHandle", "shared_engine"]
