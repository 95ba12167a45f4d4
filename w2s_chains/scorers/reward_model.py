"""``RewardModelScorer`` and its config: a reward model or classifier that scores answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self, cast

from w2s_chains.backend.classifiers.judge import Judge
from w2s_chains.backend.classifiers.load import load_judge, preview_judge
from w2s_chains.backend.classifiers.log_odds import LogOdds
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import ConfigError, PromptError, ScorerError, shown
from w2s_chains.scorers.config import BuiltInScorerConfig
from w2s_chains.scorers.functions import RememberingScorer


class RewardModelConfig(BuiltInScorerConfig, LogOdds):
    """A Hugging Face sequence classifier: log p(positive) - log p(negative), or its single output.

    Attributes:
        partial: Whether to score unfinished answers too, as chunk beam search needs. If true, the
            chat template closes the turn only of answers that the model has ended. If false, only
            whole answers are scored, and their turns are always closed.
    """

    type: Literal["reward_model"] = "reward_model"
    partial: bool = True

    def preview(self) -> None:
        self.labels(preview_judge(self))

    def build(self, guides: BaseGuidePair | None) -> RewardModelScorer:
        return RewardModelScorer(self)


class RewardModelScorer(RememberingScorer):
    """The output of a sequence classifier for each answer; higher is better.

    All answers of a step, from all searches that run together, are read once, in batches of
    ``batch_size``. If an empty answer leaves the model nothing to read, because not even a special
    token is added, its score is -inf.
    """

    def __init__(self, options: RewardModelConfig) -> None:
        """Load the model that ``options`` describes.

        Raises:
            ModelNotFoundError: The model cannot be found.
            UnsupportedModelError: The model needs code from its own repository.
            ConfigError: The model is not a sequence classifier, or an option does not fit it.
        """
        super().__init__()
        if not isinstance(cast("object", options), RewardModelConfig):
            raise ConfigError(
                f"a RewardModelScorer needs a RewardModelConfig, not {shown(options)}; load a "
                "model by name with RewardModelScorer.from_pretrained"
            )
        options.preview()
        self.options = options
        self.partial = options.partial
        self._judge: Judge = load_judge(options)

    @classmethod
    def from_pretrained(cls, model: str, **options: Any) -> Self:
        """Load a model.

        Args:
            model: Hub id or local folder, with safetensors.
            **options: Fields of ``RewardModelConfig``: positive, negative, template, chat, partial,
                batch_size, max_length, truncate, tokenizer, device, dtype, ...

        Raises:
            ConfigError: An option is misspelt or out of range.
        """
        return cls(RewardModelConfig(model=model, **options))

    def to_config(self, beside: Parts | None = None) -> RewardModelConfig:
        """Return the section ``scorer``."""
        return self.options

    def cache_key(self) -> str:
        """Return all options as text."""
        return f"RewardModelScorer({self.options!r})"

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if prompt and answer are longer than the model can read.

        The answer is counted in the proposer's tokens. A text that has more tokens in this model's
        vocabulary is refused when it is read.
        """
        count = len(self.options.ids(self._judge, prompt, ".", ended=False))
        limit = self._judge.limit
        if self.options.truncate is None and count + sampling.max_tokens > limit:
            raise PromptError(
                f"the prompt has {count} tokens, and with {sampling.max_tokens} more for the "
                f"answer that exceeds the {limit} that reward model {self.options.model!r} reads; "
                "shorten the prompt, lower max_tokens, or set truncate to 'left' or 'right'"
            )

    def _values(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        options = self.options
        for h in hypotheses:
            if not (h.finished or options.partial):
                raise ScorerError(
                    f"the reward model {options.model!r} judges whole answers only (partial: "
                    f"false), but was asked about {h.response!r}, which goes on; use strategy "
                    "'best_of_n', or set partial to true"
                )
        read = [h for h in hypotheses if h.response or self._reads_nothing(h.prompt)]
        texts = [
            options.ids(self._judge, h.prompt, h.response, h.ended or not options.partial)
            for h in read
        ]
        values = options.log_odds(self._judge.logits(texts), self._judge.model.config)
        found = dict(zip(read, values, strict=True))
        return [found.get(h, -math.inf) for h in hypotheses]

    def _reads_nothing(self, prompt: Prompt) -> bool:
        """Return whether the model has something to read if the answer is empty."""
        text = self.options.rendered(prompt.plain_text, "")
        return self.options.chat or bool(self._judge.tokenizer(text)["input_ids"])
