"""``GuidePair``: the tuned and the untuned guide, and the ways to load them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.lm.paths import read_together
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.local_model import Loader, LocalModel
from w2s_chains.core.contracts import BaseGuidePair, Guide, TokenScores, by_hand, config_of, key_of
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import ConfigError, PromptError, ScorerError, shown
from w2s_chains.guides.config import (
    AdapterPair,
    Guides,
    PresetPair,
    PromptPair,
    RemoteGuideConfig,
)
from w2s_chains.guides.huggingface import HuggingFaceGuide
from w2s_chains.guides.remote import RemoteGuide


class GuidePair(BaseGuidePair):
    """Two guides whose log-ratio measures how much the tuning favours a text.

    Two local guides that share weights, because they differ only in a LoRA adapter or in their
    prompts, run in one forward pass.

    The untuned guide need not be the model that the last stage of tuning started from. The
    pretrained model works too, and the log-ratio then covers all stages of the tuning. The guides
    may even have different vocabularies; each then scores the text in its own tokens. But a
    *partial* text may end inside a token of one guide and between two tokens of the other, which
    adds noise to its score: prefer longer chunks, or guides with the same vocabulary.
    """

    def __init__(self, tuned: Guide, untuned: Guide) -> None:
        self.tuned = tuned
        self.untuned = untuned

    @classmethod
    def from_pretrained(cls, tuned: str | Model, untuned: str | Model, **options: Any) -> GuidePair:
        """Load both models.

        Args:
            tuned: Hub id, local folder, GGUF file or ``embedded:NAME``; or a ``Model``.
            untuned: The model that ``tuned`` was tuned from, in the same form.
            **options: Fields of ``Model`` for the guides given by name.

        Raises:
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model's cache cannot branch.
            ConfigError: An option is misspelt or out of range.
        """
        return cls.from_guides(Guides(tuned, untuned, **options))

    @classmethod
    def from_guides(cls, guides: Guides, load: Callable[..., Any] | None = None) -> GuidePair:
        """Load the pair that ``guides`` describes; equal weights are loaded once.

        Args:
            guides: The section ``guides`` of a config.
            load: A ``Loader``, which may already have loaded the weights.

        Raises:
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model's cache cannot branch.
            ConfigError: A package is missing, or an adapter belongs to another model.
        """
        load = Loader() if load is None else load
        tuned, untuned = (
            RemoteGuide.from_spec(spec)
            if isinstance(spec, RemoteGuideConfig)
            else load(HuggingFaceGuide, spec)
            for spec in guides.specs()
        )
        return cls(tuned, untuned)

    @classmethod
    def from_adapter(
        cls, base: str | LocalModel, adapter: str | os.PathLike[str], **options: Any
    ) -> GuidePair:
        """Use one base with a LoRA adapter: on for the tuned guide, off for the untuned one.

        The weights of the base are held once, and both guides run in one forward pass.

        Args:
            base: Hub id, local folder, GGUF file or ``embedded:NAME``; or a loaded model that is
                not running, such as a ``HuggingFaceProposer``, whose weights are shared.
            adapter: Hub id or local folder of an adapter that peft saved as safetensors.
            **options: Fields of ``Model``, or for a loaded model those of ``PromptTemplate``.

        Raises:
            ConfigError: The package peft is missing, or the adapter belongs to another base.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: The adapter is not a LoRA that can be switched off, or the base's
                cache cannot branch.
            ConfigError: An option is misspelt or out of range.
        """
        adapter = os.fspath(adapter)
        if isinstance(base, LocalModel):
            return cls(
                _reader(base, adapter=adapter, **options), _reader(base, adapter=None, **options)
            )
        pair = AdapterPair(base=base, adapter=adapter, **options)
        return cls.from_guides(pair.guides())

    @classmethod
    def from_prompts(
        cls,
        model: str | LocalModel,
        tuned_template: str | None = None,
        untuned_template: str | None = None,
        *,
        tuned_system: str | None = None,
        untuned_system: str | None = None,
        **options: Any,
    ) -> GuidePair:
        """Use one model under two prompts, read in one forward pass.

        Args:
            model: Hub id, local folder, GGUF file or ``embedded:NAME``; or a loaded model, such as
                the ``HuggingFaceProposer`` itself, whose weights and ``chat`` are shared.
            tuned_template: Template of the tuned guide, such as "A five-star review: {prompt}";
                by default the prompt unchanged.
            untuned_template: Template of the untuned guide, with the same default.
            tuned_system: System message of the tuned guide. Needs ``chat``.
            untuned_system: System message of the untuned guide. Needs ``chat``.
            **options: Fields of ``Model``, or for a loaded model those of ``PromptTemplate``.

        Raises:
            ModelNotFoundError: The model cannot be found.
            UnsupportedModelError: The model's cache cannot branch.
            ConfigError: An option is misspelt or out of range, or both prompts are the same.
        """
        fields = {
            "tuned_template": tuned_template,
            "untuned_template": untuned_template,
            "tuned_system": tuned_system,
            "untuned_system": untuned_system,
        }
        if isinstance(model, LocalModel):
            options = {"chat": model.tokenizer.template.chat, **options}
            pair = PromptPair(model="loaded", **fields, **options)
            return cls(
                *(
                    _reader(model, **{**options, "system": None, **pair.prompt_of(role)})
                    for role in ("tuned", "untuned")
                )
            )
        pair = PromptPair(model=model, **fields, **options)
        return cls.from_guides(pair.guides())

    @classmethod
    def from_preset(cls, name: str, **options: Any) -> GuidePair:
        """Load a preset: the paper's zephyr, starling, tulu or gpt2-imdb, or one of your own.

        Args:
            name: The preset; the environment variable ``W2S_PRESETS`` names a file with more.
            **options: Fields of ``Model``, and ``tuned`` or ``untuned``; they override the preset.

        Raises:
            ConfigError: There is no such preset.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model's cache cannot branch.
            ConfigError: An option is misspelt or out of range.
        """
        pair = PresetPair(preset=name, **options)
        return cls.from_guides(pair.guides())

    def swapped(self) -> GuidePair:
        """Return the pair that steers the other way; it shares the models."""
        return GuidePair(self.untuned, self.tuned)

    def to_config(self) -> Guides:
        """Return the section ``guides`` that loads this pair again.

        Raises:
            ConfigError: A guide was built by hand.
        """
        for role, guide in (("tuned", self.tuned), ("untuned", self.untuned)):
            if Guide.of(guide).spec is None:
                raise by_hand(guide, f"{role} guide")
        return Guides(config_of(self.tuned, Guide), config_of(self.untuned, Guide))

    def cache_key(self) -> str:
        """Return the keys of both guides as one."""
        return f"GuidePair({key_of(self.tuned)}, {key_of(self.untuned)})"

    def local_models(self) -> tuple[LocalModel, LocalModel] | None:
        """Return both models if both are in this process, else None."""
        tuned, untuned = self.tuned, self.untuned
        if isinstance(tuned, LocalModel) and isinstance(untuned, LocalModel):
            return tuned, untuned
        return None

    @property
    def max_positions(self) -> int | None:
        """The most tokens that both guides can read; None if neither has a limit."""
        both = (Guide.of(guide).max_positions for guide in (self.tuned, self.untuned))
        return min((limit for limit in both if limit is not None), default=None)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if a guide cannot read the prompt, or if the guides cannot differ.

        They cannot differ if both templates render the prompt to the same tokens.
        """
        for guide in (self.tuned, self.untuned):
            Guide.of(guide).check(prompt, sampling)
        tuned, untuned = self.tuned, self.untuned
        if (
            isinstance(tuned, HuggingFaceGuide)
            and isinstance(untuned, HuggingFaceGuide)
            and tuned.lm.model is untuned.lm.model
            and tuned.lm.adapter == untuned.lm.adapter
            and tuned.tokenizer.template != untuned.tokenizer.template
            and tuned.tokenizer.prompt_ids(prompt) == untuned.tokenizer.prompt_ids(prompt)
        ):
            raise PromptError(
                "both guides read this prompt in the same way, so that they cannot differ: with a "
                "chat template, templates are for plain strings alone; tell the guides apart by "
                "their system messages (tuned_system, untuned_system)"
            )

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        """Return (log p_tuned, log p_untuned) of each hypothesis, in nats."""
        self.read_together([], hypotheses)
        tuned = self.tuned.loglikelihood(hypotheses)
        untuned = self.untuned.loglikelihood(hypotheses)
        return list(zip(tuned, untuned, strict=True))

    def check_token_ratios(self) -> None:
        """Raise ConfigError unless both guides are local models of one vocabulary."""
        self._in_one_vocabulary()

    def token_ratios(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, ...]]:
        """Return log p_tuned - log p_untuned of each token of each answer, in nats.

        What ``loglikelihoods`` has read is not read again.

        Raises:
            ConfigError: The guides are not local models of one vocabulary.
            ScorerError: They cut an answer into different tokens, which may happen where it follows
                different prompts.
        """
        return [
            tuple(a - b for a, b in zip(tuned, untuned, strict=True))
            for _, tuned, untuned in self._by_token(hypotheses)
        ]

    def check_token_scores(self) -> None:
        """Raise ConfigError unless both guides are local models of one vocabulary."""
        self._in_one_vocabulary()

    def token_scores(self, hypotheses: Sequence[Hypothesis]) -> list[TokenScores]:
        """Return both log-probabilities of each token of each answer, and the tokens' texts.

        What ``loglikelihoods`` has read is not read again; raises like ``token_ratios``.
        """
        paths = self._in_one_vocabulary()[0].paths
        return [
            TokenScores(
                texts=(*paths.texts(h, ids), *[""] * h.ended),
                tuned=tuple(tuned),
                untuned=tuple(untuned),
                ended=h.ended,
            )
            for h, (ids, tuned, untuned) in zip(hypotheses, self._by_token(hypotheses), strict=True)
        ]

    def _by_token(
        self, hypotheses: Sequence[Hypothesis]
    ) -> list[tuple[list[int], list[float], list[float]]]:
        """Return the tokens of each answer, and log p_tuned and log p_untuned of each token."""
        tuned, untuned = self._in_one_vocabulary()
        self.read_together([], hypotheses)
        found: list[tuple[list[int], list[float], list[float]]] = []
        for h in hypotheses:
            (ids, ours), (others, theirs) = (own.paths.logprobs(h) for own in (tuned, untuned))
            if ids != others:
                raise ScorerError(
                    f"the guides cut the text {shown(h.response)} into different tokens, so their "
                    "log-ratio has no parts; let both templates end alike, with a line break"
                )
            found.append((ids, ours, theirs))
        return found

    def _in_one_vocabulary(self) -> tuple[HuggingFaceGuide, HuggingFaceGuide]:
        tuned, untuned = self.tuned, self.untuned
        if (
            isinstance(tuned, HuggingFaceGuide)
            and isinstance(untuned, HuggingFaceGuide)
            and tuned.tokenizer.vocabulary == untuned.tokenizer.vocabulary
        ):
            return tuned, untuned
        raise ConfigError(
            "log-ratios of single tokens need two local guides with one vocabulary; use guides of "
            "one model family in this process, or another strategy"
        )

    def read_together(self, others: Sequence[object], hypotheses: Sequence[Hypothesis]) -> None:
        """Have the local guides of this and other pairs read what they have not read yet.

        Guides that share weights (adapters or prompts of one model) run in one forward pass.
        """
        pairs = [self, *(other for other in others if isinstance(other, GuidePair))]
        guides = dict.fromkeys(guide for pair in pairs for guide in (pair.tuned, pair.untuned))
        paths = [guide.paths for guide in guides if isinstance(guide, HuggingFaceGuide)]
        for rows in read_together(paths, hypotheses, scored=True):
            rows.hypothesis.usage.add_guide(rows.number, rows.flops_per_token)


def _reader(model: LocalModel, **changes: Any) -> HuggingFaceGuide:
    """Return a guide that shares the weights of a loaded model."""
    if wrong := sorted(changes.keys() - {*PromptTemplate.model_fields, "adapter", "token_budget"}):
        raise ConfigError(
            f"option {wrong[0]!r} is for loading a model, but this one is loaded; give its name, "
            "or leave the option out"
        )
    how = model.tokenizer.template
    known = Model(model="loaded", chat=how.chat, chat_template_kwargs=how.chat_template_kwargs)
    values: dict[str, Any] = {
        **dict(model.spec or known),
        "template": "{prompt}",
        "system": None,
        **changes,
    }
    guide = HuggingFaceGuide.sharing(model, Model(**values))
    if model.spec is None:
        guide.spec = None
    return guide
