"""Search strategies: pure algorithms, without torch and without langchain."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from w2s_chains.core.hypothesis import common_ancestor
from w2s_chains.core.plugins import build_plugin
from w2s_chains.search.base import Search, SearchStrategy, commit, distinct, expand, score, top
from w2s_chains.search.best_of_n import BestOfN
from w2s_chains.search.chunk_beam import ChunkBeamSearch
from w2s_chains.search.sampling import EmulatedFineTuning, Sampling

STRATEGIES: dict[str, type[SearchStrategy]] = {
    "chunk_beam": ChunkBeamSearch,
    "best_of_n": BestOfN,
    "sampling": Sampling,
    "emulated_fine_tuning": EmulatedFineTuning,
}


def build_strategy(value: Any) -> Any:
    """A strategy from a mapping with a ``type``; an object passes as it is."""
    return build_plugin("strategies", value, STRATEGIES)


AnyStrategy = Annotated[SerializeAsAny[SearchStrategy], BeforeValidator(build_strategy)]
"""A config slot for a strategy: takes an object or a mapping, and dumps every parameter."""

__all__ = [
    "STRATEGIES",
    "AnyStrategy",
    "BestOfN",
    "ChunkBeamSearch",
    "EmulatedFineTuning",
    "Sampling",
    "Search",
    "SearchStrategy",
    "build_strategy",
    "commit",
    "common_ancestor",
    "distinct",
    "expand",
    "score",
    "top",
]
