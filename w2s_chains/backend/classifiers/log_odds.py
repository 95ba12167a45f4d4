"""``JudgedText`` and ``LogOdds``: how to render prompt and answer, and which labels to compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

from pydantic import model_validator

from w2s_chains.backend.classifiers.answer_template import AnswerTemplate
from w2s_chains.backend.classifiers.judge import Judge, JudgeOptions
from w2s_chains.core.prompts import Prompt
from w2s_chains.errors import ConfigError, did_you_mean


class JudgedText(AnswerTemplate, JudgeOptions):
    """A model that judges prompt and answer, rendered by a template or as turns of a chat."""

    @model_validator(mode="after")
    def _one_rendering(self) -> Self:
        if self.chat and "template" in self.model_fields_set:
            raise ValueError("chat renders prompt and answer by itself; remove template or chat")
        return self

    def ids(self, judge: Judge, prompt: Prompt, answer: str, ended: bool = True) -> list[int]:
        """Return the tokens to judge.

        Args:
            judge: The model.
            prompt: The prompt.
            answer: The answer, or the beginning of one.
            ended: Whether the chat template closes the answer's turn.

        Raises:
            PromptError: The text is empty or too long, or the chat template refuses the prompt.
        """
        if self.chat:
            return judge.chat_ids(prompt, answer, ended)
        return judge.text_ids(self.rendered(prompt.plain_text, answer))


class LogOdds(JudgedText):
    """Log p(positive) - log p(negative) by any ``AutoModelForSequenceClassification``, in nats.

    If the model has a single output, as reward models do, that output is the reward.

    Attributes:
        positive: The label whose probability is rewarded, by name or index.
        negative: The label to compare it with; by default all other labels together.
    """

    positive: str | int | None = None
    negative: str | int | None = None

    def log_odds(self, logits: Sequence[Sequence[float]], config: Any) -> list[float]:
        """Return the reward of each text, from the outputs of a model with this config."""
        positive, negative = self.labels(config)
        if positive is None:
            return [row[0] for row in logits]
        return [row[positive] - _log_sum_exp([row[i] for i in negative]) for row in logits]

    def labels(self, config: Any) -> tuple[int | None, list[int]]:
        """Return the index of the positive label, and of the labels to compare it with.

        The positive index is None for a model with a single output.

        Raises:
            ConfigError: The model has no such labels.
        """
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
                f"the labels of model {self.model!r} do not exclude each other, so there is no "
                "p(positive) to compare with p(negative); use another model"
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
        if label is None:
            raise ConfigError(
                f"model {self.model!r} has the labels {', '.join(names.values())}; set {role!r} to "
                "the one to reward"
            )
        if len(found) != 1:
            hint = did_you_mean(str(label or ""), names.values())
            raise ConfigError(
                f"{role} is {label!r}, but that is none of the labels of model {self.model!r}{hint}"
            )
        return found[0]


def _log_sum_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))
