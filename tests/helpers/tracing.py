"""A tracer that remembers the runs it is told of."""

from __future__ import annotations

import threading

from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run


class Traced(BaseTracer):
    """Keeps whole runs, as LangSmith gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []
        self.threads: set[threading.Thread] = set()

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def _on_chain_end(self, run: Run) -> None:
        self.threads.add(threading.current_thread())


def chunks_below(run: Run) -> list[Run]:
    return [child for child in run.child_runs if child.name == "w2s_chunk"]
