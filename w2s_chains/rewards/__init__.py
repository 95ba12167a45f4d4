"""Rewards: judges of whole answers, for comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, create_model

from w2s_chains.core.plugins import build_plugin
from w2s_chains.rewards.base import FunctionReward, Reward, RewardFunction
from w2s_chains.rewards.loglikelihood import Loglikelihood, loglikelihood_per_token
from w2s_chains.rewards.sequence_classifier import SequenceClassifier
from w2s_chains.rewards.text import Length, Repetition, Vader
from w2s_chains.rewards.text_classifier import TextClassifier
from w2s_chains.rewards.value_head import ValueHead

REWARDS: Mapping[str, type[Reward]] = {
    "classifier": SequenceClassifier,
    "value_head": ValueHead,
    "text_classifier": TextClassifier,
    "vader": Vader,
    "length": Length,
    "repetition": Repetition,
    "loglikelihood": Loglikelihood,
}
"""The built-in rewards by type."""


def build_reward(value: Any, context: Any = None) -> Any:
    """Build a reward.

    Args:
        value: A type, a mapping with a ``type``, a function ``(prompts, answers) -> list[float]``,
            or a reward, which is returned as it is. A type that is an entry point may name a
            function too.
        context: ``{"folder": ...}`` for the folder that paths are relative to.

    Raises:
        ConfigError: There is no such type.
        pydantic.ValidationError: A field is misspelt or out of range.
    """
    if not isinstance(value, Reward | Mapping | str) and callable(value):
        name = getattr(value, "__name__", type(value).__name__)
        return FunctionReward(type=name.strip("<>"), function=cast(RewardFunction, value))
    if isinstance(value, str):
        value = {"type": value}
    return build_plugin("rewards", value, REWARDS, context, _wrap_function)


def _in_config(value: Any, info: ValidationInfo) -> Any:
    return build_reward(value, info.context)


def _wrap_function(name: str, function: Any) -> type[Reward] | None:
    """Make a reward class from a function that an entry point names."""
    if not callable(function) or isinstance(function, type):
        return None
    kept = Field(default=function, exclude=True, repr=False)
    return create_model(name, __base__=FunctionReward, type=(str, name), function=(Any, kept))


AnyReward = Annotated[SerializeAsAny[Reward], BeforeValidator(_in_config)]
"""The type of a config field that holds a reward."""

__all__ = [
    "REWARDS",
    "AnyReward",
    "FunctionReward",
    "Length",
    "Loglikelihood",
    "Repetition",
    "Reward",
    "SequenceClassifier",
    "TextClassifier",
    "Vader",
    "ValueHead",
    "build_reward",
    "loglikelihood_per_token",
]
