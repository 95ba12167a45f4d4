"""``Loglikelihood``: how likely an answer is, which shows over-optimisation without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import preview
from w2s_chains.backend.loading.local_model import LocalModel
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.rewards.base import Reward


class Loglikelihood(Reward):
    """Log p(answer | prompt) per token of the answer, in nats; 0 for an empty answer.

    Attributes:
        model: The model that reads the answers. None means each config's own proposer, whose
            loglikelihood every comparison has anyway.
    """

    type: Literal["loglikelihood"] = "loglikelihood"
    model: Model | None = None

    @property
    def fills(self) -> str:
        return "" if self.model else "loglikelihood"

    @property
    def meaning(self) -> str:
        return "of the answer under the reward's model, in nats per token; higher is likelier"

    def check(self) -> None:
        if self.model is not None:
            preview(self.model)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        assert self.model is not None, "the comparison reads answers with their own proposer"
        return loglikelihood_per_token(_load(self.model), prompts, answers)


_loaded: dict[str, LocalModel] = {}
"""The model that was used last, by its config."""


def _load(spec: Model) -> LocalModel:
    """Load the model, or return the last one if it is the same."""
    if (key := repr(spec)) not in _loaded:
        _loaded.clear()
        _loaded[key] = LocalModel.from_spec(spec)
    return _loaded[key]


def loglikelihood_per_token(
    model: LocalModel, prompts: Sequence[str], answers: Sequence[str]
) -> list[float]:
    """Return log p(answer | prompt) per token, in nats, after tokenising the texts again."""
    roots: dict[str, Hypothesis] = {}
    texts = [
        roots.setdefault(prompt, Hypothesis.root(prompt)).extend(answer, finish_reason="length")
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    model.paths.read(texts, scored=True)
    return [model.paths.loglikelihood_per_token(text) for text in texts]
