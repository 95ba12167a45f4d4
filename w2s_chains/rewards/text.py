"""Rewards that need only the text: ``Length``, ``Repetition``, ``Vader``."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from w2s_chains.errors import ConfigError
from w2s_chains.rewards.base import Reward


class Length(Reward):
    """Number of words; many rewards grow with it."""

    type: Literal["length"] = "length"
    quick: ClassVar[bool] = True

    @property
    def meaning(self) -> str:
        return "words; neither more nor fewer is better"

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [float(len(text.split())) for text in self.texts(prompts, answers)]


class Repetition(Reward):
    """1 - distinct / all words; it rises when a search over-optimises. 0 for an empty text."""

    type: Literal["repetition"] = "repetition"
    quick: ClassVar[bool] = True

    @property
    def meaning(self) -> str:
        return "1 - distinct / all words, from 0 to 1; lower is better"

    @property
    def fills(self) -> str:
        return "repetition"

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        words = [text.split() for text in self.texts(prompts, answers)]
        return [1 - len(set(own)) / len(own) if own else 0.0 for own in words]


class Vader(Reward):
    """Sentiment from -1 to 1 by a lexicon (Hutto & Gilbert, 2014): no training data, no model."""

    type: Literal["vader"] = "vader"
    quick: ClassVar[bool] = True

    @property
    def meaning(self) -> str:
        return "sentiment by a lexicon, from -1 to 1; higher is better"

    def check(self) -> None:
        require("vaderSentiment", self)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        analyzer = _analyzer()
        return [analyzer.polarity_scores(text)["compound"] for text in self.texts(prompts, answers)]


@functools.cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def require(package: str, reward: Reward) -> None:
    """Raise ConfigError if an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"reward {reward.column!r} needs the package {package}, which is not installed; "
            "run `pip install 'w2s_chains[compare]'`"
        )
