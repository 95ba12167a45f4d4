"""``ValueHead``: reward models that transformers has no class for, decoders with a value head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from w2s_chains.backend.classifiers.judge import ValueHeadWeights
from w2s_chains.backend.classifiers.load import preview_judge
from w2s_chains.rewards.sequence_classifier import ModelReward


class ValueHead(ModelReward):
    """The value head's output at the last token, as in UltraRM and Starling-RM.

    The decoder must be one that transformers knows (Llama, Mistral, ...): only the weights come
    from the model's files, never code.

    Attributes:
        head: Name of the head's tensor in the files, such as ``v_head.weight``.
        body: Prefix of the names of the decoder's weights, such as ``transformer``; by default
            transformers' own prefix.
    """

    type: Literal["value_head"] = "value_head"
    head: str
    body: str | None = None

    @model_validator(mode="after")
    def _rendered(self) -> Self:
        if not self.chat and "{prompt}" not in self.template:
            raise ValueError(
                "a value head must read prompt and answer as in training; give a template with "
                "'{prompt}' and '{answer}', or chat: true"
            )
        return self

    @property
    def meaning(self) -> str:
        return "the reward model's own output; higher is better"

    @property
    def weights(self) -> ValueHeadWeights:
        """The names of the head's and the decoder's weights."""
        return ValueHeadWeights(head=self.head, body=self.body)

    def check(self) -> None:
        preview_judge(self, self.weights)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [value for [value] in self.logits(prompts, answers, self.weights)]
