"""The tuned and the untuned guide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from w2s_chains.asks import SamplingParams
from w2s_chains.backend.loading import ModelSpec
from w2s_chains.contracts import Checks, Guide
from w2s_chains.guides.huggingface import HuggingFaceGuide
from w2s_chains.hypothesis import Hypothesis, Prompt


def _load(part: type[HuggingFaceGuide], spec: ModelSpec) -> HuggingFaceGuide:
    return part.from_spec(spec)


class GuidePair:
    """Two guides whose log-ratio says how much a text was wanted by the tuning."""

    def __init__(self, tuned: Guide, untuned: Guide) -> None:
        self.tuned = tuned
        self.untuned = untuned

    @classmethod
    def from_pretrained(
        cls, tuned: str | ModelSpec, untuned: str | ModelSpec, **options: Any
    ) -> GuidePair:
        """Load both models.

        Args:
            tuned: Hub id, local folder, GGUF file or ``embedded:NAME``; or a ``ModelSpec``.
            untuned: The model that ``tuned`` was tuned from, likewise.
            **options: Fields of ``ModelSpec`` for those given by name.

        Raises:
            ModelNotFoundError: A reference leads nowhere.
            UnsupportedModelError: A model's cache cannot branch.
            pydantic.ValidationError: An option is misspelt or out of range.
        """
        specs = [
            ref if isinstance(ref, ModelSpec) else ModelSpec(model=ref, **options)
            for ref in (tuned, untuned)
        ]
        return cls.from_specs(*specs)

    @classmethod
    def from_specs(cls, tuned: ModelSpec, untuned: ModelSpec, load: Any = None) -> GuidePair:
        """What two specs describe.

        Args:
            tuned: The tuned guide.
            untuned: The untuned one.
            load: Loads ``(part, spec)``, and may have it already.
        """
        load = _load if load is None else load
        return cls(*(load(HuggingFaceGuide, spec) for spec in (tuned, untuned)))

    def swapped(self) -> GuidePair:
        """The pair that steers the other way; the models are shared."""
        return GuidePair(self.untuned, self.tuned)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if one of the guides cannot read the prompt."""
        for guide in (self.tuned, self.untuned):
            if isinstance(guide, Checks):
                guide.check(prompt, sampling)

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        """(log p_tuned, log p_untuned) of each hypothesis, in nats."""
        tuned = self.tuned.loglikelihood(hypotheses)
        untuned = self.untuned.loglikelihood(hypotheses)
        return list(zip(tuned, untuned, strict=True))
