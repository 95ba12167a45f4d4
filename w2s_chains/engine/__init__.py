"""Runs searches."""

from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.scheduler import Engine, shared_engine

__all__ = ["Engine", "Job", "SearchHandle", "shared_engine"]
