"""``SequenceClassifier``: rewards by sequence classifiers, such as the paper's gold reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from w2s_chains.backend.classifiers.judge import ValueHeadWeights
from w2s_chains.backend.classifiers.load import load_judge, preview_judge
from w2s_chains.backend.classifiers.log_odds import JudgedText, LogOdds
from w2s_chains.core.prompts import Prompt
from w2s_chains.rewards.base import Reward


class ModelReward(Reward, JudgedText):
    """A model that reads prompt and answer; it is loaded when it is first needed."""

    def logits(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        head: ValueHeadWeights | None = None,
    ) -> list[list[float]]:
        """Return the model's outputs for each answer, one per label.

        Args:
            prompts: One per answer.
            answers: The answers to judge.
            head: The names of a value head's weights.

        Raises:
            PromptError: A text is too long for the model.
        """
        judge = load_judge(self, head)
        pairs = zip(prompts, answers, strict=True)
        return judge.logits([self.ids(judge, Prompt(text=p), answer) for p, answer in pairs])


class SequenceClassifier(ModelReward, LogOdds):
    """Log p(positive) - log p(negative) by any ``AutoModelForSequenceClassification``, in nats.

    If the model has a single output, as reward models do, that output is the reward.
    """

    type: Literal["classifier"] = "classifier"

    @property
    def meaning(self) -> str:
        return "log-odds in nats, or a reward model's own output; higher is better"

    def check(self) -> None:
        self.labels(preview_judge(self))

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        logits = self.logits(prompts, answers)
        return self.log_odds(logits, load_judge(self).model.config)
