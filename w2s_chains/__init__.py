"""Weak-to-strong search: steer a large frozen model with a small tuned and a small untuned one.

The core imports without langchain; the names in ``_LAZY`` are imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from w2s_chains.core.asks import Ask, Commit, Expand, Score
from w2s_chains.core.events import Committed, Event, Failed, Finished, Progressed, Scored
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Message, Prompt, Tool, ToolCall
from w2s_chains.core.proposing import Proposer
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.core.scoring import BaseGuidePair, Guide, Scorer
from w2s_chains.engine.job import Job
from w2s_chains.engine.scheduler import Engine
from w2s_chains.errors import W2SError
from w2s_chains.guides import GuidePair, HuggingFaceGuide, RemoteGuide
from w2s_chains.proposers import HuggingFaceProposer, OpenAIProposer
from w2s_chains.scorers import (
    CallableScorer,
    LoglikelihoodScorer,
    LogRatioScorer,
    MixtureScorer,
    RewardModelScorer,
    RunnableScorer,
)
from w2s_chains.search import BestOfN, ChunkBeamSearch, EmulatedFineTuning, Sampling, SearchStrategy

if TYPE_CHECKING:
    from w2s_chains.comparison import compare
    from w2s_chains.langchain.chat_models import ChatW2S
    from w2s_chains.langchain.llms import W2SLLM
    from w2s_chains.langchain.load import load
    from w2s_chains.proposers.langchain import LangChainProposer


__version__ = "0.1.0"

__all__ = [
    "Ask",
    "BestOfN",
    "CallableScorer",
    "ChatW2S",
    "ChunkBeamSearch",
    "Commit",
    "Committed",
    "Constraint",
    "EmulatedFineTuning",
    "Engine",
    "Event",
    "Expand",
    "Failed",
    "Finished",
    "Guide",
    "GuidePair",
    "BaseGuidePair",
    "HuggingFaceGuide",
    "HuggingFaceProposer",
    "Hypothesis",
    "Job",
    "LangChainProposer",
    "LogRatioScorer",
    "LoglikelihoodScorer",
    "Message",
    "MixtureScorer",
    "OpenAIProposer",
    "Progressed",
    "Prompt",
    "Proposer",
    "RemoteGuide",
    "RewardModelScorer",
    "RunnableScorer",
    "Sampling",
    "SamplingParams",
    "Score",
    "Scored",
    "Scorer",
    "SearchStrategy",
    "Tool",
    "ToolCall",
    "W2SError",
    "W2SLLM",
    "compare",
    "load",
]


_LAZY = {
    "ChatW2S": "w2s_chains.langchain.chat_models",
    "LangChainProposer": "w2s_chains.proposers.langchain",
    "W2SLLM": "w2s_chains.langchain.llms",
    "compare": "w2s_chains.comparison",
    "load": "w2s_chains.langchain.load",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
