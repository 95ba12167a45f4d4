"""The value of a partial answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from w2s_chains.core.plugins import build_plugin
from w2s_chains.scorers.config import ScorerConfig
from w2s_chains.scorers.functions import CallableScorer, RunnableScorer
from w2s_chains.scorers.llm_judge import LLMJudgeConfig
from w2s_chains.scorers.log_ratio import LogRatioConfig, LogRatioScorer
from w2s_chains.scorers.loglikelihood import LoglikelihoodConfig, LoglikelihoodScorer
from w2s_chains.scorers.mixture import MixtureScorer, Weighted
from w2s_chains.scorers.reward_model import RewardModelConfig, RewardModelScorer

SINGLE_SCORERS: Mapping[str, type[ScorerConfig]] = {
    "llm_judge": LLMJudgeConfig,
    "log_ratio": LogRatioConfig,
    "loglikelihood": LoglikelihoodConfig,
    "reward_model": RewardModelConfig,
}
"""All built-in types but ``mixture``, whose parts they are."""


def _build(value: Any) -> Any:
    return build_plugin("scorers", value, SINGLE_SCORERS, default="log_ratio")


SingleScorer = Annotated[SerializeAsAny[ScorerConfig], BeforeValidator(_build)]
"""A config slot for any scorer but a mixture; without a type it is ``log_ratio``."""

__all__ = [
    "SINGLE_SCORERS",
    "CallableScorer",
    "LLMJudgeConfig",
    "LogRatioConfig",
    "LogRatioScorer",
    "LoglikelihoodConfig",
    "LoglikelihoodScorer",
    "MixtureScorer",
    "RewardModelConfig",
    "RewardModelScorer",
    "RunnableScorer",
    "ScorerConfig",
    "SingleScorer",
    "Weighted",
]
