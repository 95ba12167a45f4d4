"""``Engine``, which runs searches in batches; ``Job`` and ``SearchHandle`` describe one of them.

``score_texts`` scores given texts between the searches.
"""

from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.scheduler import Engine, shared_engine
from w2s_chains.engine.texts import TextScore, score_texts

__all__ = ["Engine", "Job", "SearchHandle", "TextScore", "score_texts", "shared_engine"]
