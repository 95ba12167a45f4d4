"""``Engine``, which runs searches in batches; ``Job`` and ``SearchHandle`` describe one of them."""

from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.scheduler import Engine, shared_engine

__all__ = ["Engine", "Job", "SearchHandle", "shared_engine"]
