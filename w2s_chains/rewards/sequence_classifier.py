"""Rewards that are models: sequence classifiers, the paper's gold reward among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from w2s_chains.backend.classifiers import (
    JudgeOptions,
    ValueHeadWeights,
    load_judge,
    preview_judge,
)
from w2s_chains.errors import ConfigError
from w2s_chains.plugins import did_you_mean
from w2s_chains.rewards.base import Reward


class ModelReward(Reward, JudgeOptions):
    """A model that reads prompt and answer; it is loaded when it is first needed."""

    @model_validator(mode="after")
    def _one_rendering(self) -> Self:
        if self.chat and "template" in self.model_fields_set:
            raise ValueError("chat renders prompt and answer by itself; leave out template or chat")
        return self

    def logits(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        head: ValueHeadWeights | None = None,
    ) -> list[list[float]]:
        """The model's outputs for each answer, one per label.

        Raises:
            PromptError: A text is too long for the model.
        """
        judge = load_judge(self, head)
        if self.chat:
            pairs = zip(prompts, answers, strict=True)
            return judge.logits([judge.chat_ids(prompt, answer) for prompt, answer in pairs])
        return judge.logits([judge.text_ids(text) for text in self.texts(prompts, answers)])


class SequenceClassifier(ModelReward):
    """Log p(positive) - log p(negative) by any ``AutoModelForSequenceClassification``, in nats.

    A model with a single output, as reward models have it, gives that output; it has no labels.

    Attributes:
        positive: Label whose probability is rewarded, by name or index.
        negative: Label that it is compared with; by default all others together.
    """

    type: Literal["classifier"] = "classifier"
    positive: str | int | None = None
    negative: str | int | None = None

    def check(self) -> None:
        self._labels(preview_judge(self))

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        logits = self.logits(prompts, answers)
        positive, negative = self._labels(load_judge(self).model.config)
        if positive is None:
            return [row[0] for row in logits]
        return [row[positive] - _log_sum_exp([row[i] for i in negative]) for row in logits]

    def _labels(self, config: Any) -> tuple[int | None, list[int]]:
        """Index of the positive label, and of those that it is compared with."""
        names: dict[int, str] = config.id2label
        if len(names) == 1:
            if (self.positive, self.negative) != (None, None):
                raise ConfigError(
                    f"model {self.model!r} has a single output, which is the reward; leave out "
                    "positive and negative"
                )
            return None, []
        if config.problem_type == "multi_label_classification":
            raise ConfigError(
                f"the labels of model {self.model!r} do not exclude each other, so that there is "
                "no p(positive) to compare with p(negative); use another model"
            )
        positive = self._index("positive", self.positive, names)
        if self.negative is None:
            return positive, [i for i in names if i != positive]
        negative = self._index("negative", self.negative, names)
        if positive == negative:
            raise ConfigError(f"positive and negative are the same label {self.positive!r}")
        return positive, [negative]

    def _index(self, role: str, label: str | int | None, names: dict[int, str]) -> int:
        found = [i for i, name in names.items() if label in (i, name)]
        if len(found) != 1:
            hint = did_you_mean(str(label or ""), names.values())
            raise ConfigError(
                f"{role} is {label!r}, but that is none of the labels of model {self.model!r}{hint}"
            )
        return found[0]


def _log_sum_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))
