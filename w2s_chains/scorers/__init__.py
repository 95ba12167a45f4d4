"""The value of a partial answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from w2s_chains.plugins import build_plugin
from w2s_chains.scorers.base import ScorerConfig
from w2s_chains.scorers.llm_judge import LLMJudge
from w2s_chains.scorers.log_ratio import LogRatio, LogRatioScorer
from w2s_chains.scorers.loglikelihood import Loglikelihood, LoglikelihoodScorer
from w2s_chains.scorers.mixture import MixtureScorer, Weighted
from w2s_chains.scorers.reward_model import RewardModel, RewardModelScorer
from w2s_chains.scorers.texts import CallableScorer, RunnableScorer

SINGLE_SCORERS: Mapping[str, type[ScorerConfig]] = {
    "llm_judge": LLMJudge,
    "log_ratio": LogRatio,
    "loglikelihood": Loglikelihood,
    "reward_model": RewardModel,
}
"""All built-in types but ``mixture``, whose parts they are."""


def _build(value: Any) -> Any:
    return build_plugin("scorers", value, SINGLE_SCORERS, default="log_ratio")


SingleScorer = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(_build)]
"""A config slot for any scorer but a mixture; without a type it is ``log_ratio``."""

__all__ = [
    "SINGLE_SCORERS",
    "CallableScorer",
    "LLMJudge",
    "LogRatio",
    "LogRatioScorer",
    "Loglikelihood",
    "LoglikelihoodScorer",
    "MixtureScorer",
    "RewardModel",
    "RewardModelScorer",
    "RunnableScorer",
    "ScorerConfig",
    "SingleScorer",
    "Weighted",
]
