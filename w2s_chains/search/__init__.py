"""Search strategies as pure algorithms (no torch, no langchain), and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from w2s_chains.core.configs import built
from w2s_chains.core.hypothesis import common_ancestor
from w2s_chains.core.slots import Slot
from w2s_chains.search.answers.adaptive_best_of_n import AdaptiveBestOfN
from w2s_chains.search.answers.best_of_n import BestOfN
from w2s_chains.search.answers.sampling import EmulatedFineTuning, Sampling
from w2s_chains.search.answers.speculative_rejection import SpeculativeRejection
from w2s_chains.search.base import (
    Search,
    SearchStrategy,
    commit,
    distinct,
    drawn,
    expand,
    expand_all,
    random_stream,
    score,
    token_ratios,
    top,
)
from w2s_chains.search.steps.cards import CARDS
from w2s_chains.search.steps.chunk_beam import ChunkBeamSearch
from w2s_chains.search.steps.dvts import DVTS
from w2s_chains.search.steps.mcts import MCTS
from w2s_chains.search.steps.nudging import Nudging
from w2s_chains.search.steps.particle_filter import ParticleFilter
from w2s_chains.search.steps.token_search import TokenSearch

STRATEGIES: Mapping[str, type[SearchStrategy]] = {
    "chunk_beam": ChunkBeamSearch,
    "token_search": TokenSearch,
    "dvts": DVTS,
    "best_of_n": BestOfN,
    "adaptive_best_of_n": AdaptiveBestOfN,
    "speculative_rejection": SpeculativeRejection,
    "sampling": Sampling,
    "emulated_fine_tuning": EmulatedFineTuning,
    "particle_filter": ParticleFilter,
    "cards": CARDS,
    "mcts": MCTS,
    "nudging": Nudging,
}
"""The built-in strategies by type."""

STRATEGY = Slot(
    kind="strategy",
    base=SearchStrategy,
    builtins=STRATEGIES,
    group="w2s_chains.strategies",
)

AnyStrategy = Annotated[SearchStrategy, STRATEGY]
"""Annotates a config field that takes a strategy: an object, a mapping or a type name."""

build_strategy = partial(built, STRATEGY)


__all__ = [
    "CARDS",
    "DVTS",
    "MCTS",
    "STRATEGIES",
    "STRATEGY",
    "AdaptiveBestOfN",
    "AnyStrategy",
    "BestOfN",
    "ChunkBeamSearch",
    "EmulatedFineTuning",
    "Nudging",
    "ParticleFilter",
    "Sampling",
    "Search",
    "SearchStrategy",
    "SpeculativeRejection",
    "TokenSearch",
    "build_strategy",
    "commit",
    "common_ancestor",
    "distinct",
    "drawn",
    "expand",
    "expand_all",
    "random_stream",
    "score",
    "token_ratios",
    "top",
]
