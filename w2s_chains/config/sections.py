"""What a config says: sections proposer, guides, scorer, strategy and generation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator

from w2s_chains.backend.loading.config import Model
from w2s_chains.core.asks import Expand
from w2s_chains.core.configs import Config, config_errors
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts, Proposer, Scorer
from w2s_chains.core.sampling import Branches, SamplingParams
from w2s_chains.core.slots import Slot
from w2s_chains.errors import ConfigError
from w2s_chains.guides.config import GUIDES, AnyGuides, Guides
from w2s_chains.proposers.config import (
    PROPOSER,
    AnyProposer,
    ProposerConfig,
    load_proposer,
)
from w2s_chains.scorers.config import SCORER, AnyScorer, ScorerConfig
from w2s_chains.search import AnyStrategy, ChunkBeamSearch, SearchStrategy

if TYPE_CHECKING:
    from w2s_chains.backend.loading.local_model import Loader

ModelType = Literal["llm", "chat"]

_WRITTEN = (str, os.PathLike, Mapping, Config)
"""What a user writes for a part; anything else is a part that is ready."""
_SLOTS: Mapping[str, Slot[Any]] = {"proposer": PROPOSER, "guides": GUIDES, "scorer": SCORER}


class GenerationConfig(SamplingParams):
    """How to sample, and how many answers to return.

    Attributes:
        n: Answers per prompt.
    """

    n: Branches = 1


class PartsConfig(Config):
    """The parts of a guided model.

    Attributes:
        type: "llm" makes a ``W2SLLM``. "chat" makes a ``ChatW2S``: its models use their chat
            templates where they have one, unless their own ``chat`` says otherwise. Without a type
            the class that reads the config decides; ``load`` makes a ``W2SLLM``.
        proposer: The large model; of type ``huggingface`` unless it says otherwise.
        guides: The tuned and the untuned guide, a shorthand for them, or the name of a preset.
        scorer: How partial answers are valued. By default the log-ratio of the guides, if there
            are any; null for no scorer.
    """

    type: ModelType | None = None
    proposer: AnyProposer | None = None
    guides: AnyGuides | None = Field(default=None, validation_alias=AliasChoices("guides", "guide"))
    scorer: AnyScorer | None = None

    @field_validator("proposer", "guides", "scorer", mode="before")
    @classmethod
    def _for_chat(cls, section: Any, info: ValidationInfo) -> Any:
        if section is None or info.data.get("type") != "chat":
            return section
        if isinstance(section, Config):
            return section.for_chat()
        assert info.field_name is not None
        return _SLOTS[info.field_name].build(section, {**(info.context or {}), "chat": "auto"})

    @property
    def scoring(self) -> ScorerConfig | None:
        """How partial answers are valued, said or not; None if they are not."""
        if "scorer" in self.model_fields_set:
            return self.scorer
        return None if self.guides is None else SCORER.build({})

    def check(self) -> None:
        """Refuse a scorer that lacks its guides; no model is touched.

        Raises:
            ConfigError: The scorer reads guides, but there is no section ``guides``.
        """
        _check_guides(self.scoring, self.guides)


class W2SConfig(PartsConfig):
    """Everything that makes a guided model.

    Attributes:
        strategy: How to search.
        strategies: Other searches by name. Clients of ``w2s serve`` ask for them as
            ``MODEL@NAME``.
        generation: How to sample.
    """

    proposer: AnyProposer  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    strategies: dict[str, AnyStrategy] = Field(default_factory=dict[str, AnyStrategy])
    generation: GenerationConfig = GenerationConfig()

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        check_effort(self.strategy, self.generation.n)
        return self

    def models(self) -> list[Model]:
        """The models that are loaded into this process; other packages load their own."""
        pairs = [] if self.guides is None else [self.guides]
        pairs += () if self.scoring is None else self.scoring.own_guides()
        specs = (self.proposer, *(spec for pair in pairs for spec in pair.specs()))
        return [spec for spec in specs if isinstance(spec, Model)]

    def build(
        self, given: Mapping[str, Any] = MappingProxyType({}), load: Loader | None = None
    ) -> dict[str, Any]:
        """The arguments of ``W2SLLM`` or ``ChatW2S``, with the models loaded.

        Args:
            given: Arguments that win over this config; parts among them are not loaded.
            load: See ``build_parts``, which raises alike.
        """
        return build_parts({**self.fields(), **given}, self.type or "llm", "config", load)

    def unscored(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Who takes the guides away (``guides=None``) takes the scorer that reads them away too."""
        taken = "guides" in given and given["guides"] is None
        return {"scorer": None} if taken and self.scoring and self.scoring.needs_guides else {}

    def fields(self) -> dict[str, Any]:
        """What is said here, as keyword arguments of ``W2SLLM`` or ``ChatW2S``."""
        names = ("proposer", "guides", "scorer", "strategy")
        said = {name: getattr(self, name) for name in names if name in self.model_fields_set}
        generation = self.generation
        return said | {name: getattr(generation, name) for name in generation.model_fields_set}


MOST_PER_PROMPT = 2**20
"""The most partial answers for one prompt, in all of its searches."""


def check_effort(strategy: SearchStrategy, n: int) -> None:
    """Refuse to sample more for one prompt than any machine would finish.

    Raises:
        ValueError: ``n`` answers have more partial answers than ``MOST_PER_PROMPT``.
    """
    if n * strategy.branches > MOST_PER_PROMPT:
        raise ValueError(
            f"n={n:,} answers of {strategy.branches:,} partial answers each are "
            f"{n * strategy.branches:,} per prompt; the most is {MOST_PER_PROMPT:,}, so lower n, "
            "or the strategy's width, successors or n"
        )


def is_described(fields: Mapping[str, Any]) -> bool:
    """Whether a part among these arguments has to be built, rather than being ready."""
    return any(isinstance(fields.get(name), _WRITTEN) for name in _SLOTS)


def build_parts(
    fields: Mapping[str, Any],
    kind: ModelType = "llm",
    source: str = "",
    load: Loader | None = None,
) -> dict[str, Any]:
    """The fields of a guided model with its models loaded; equal weights are loaded once.

    Args:
        fields: Arguments of ``W2SLLM`` or ``ChatW2S``: proposer, guides and scorer as names,
            mappings and configs, or as parts that are ready; and any others, which stay.
        kind: Whether models read raw prompts or chats.
        source: What was called, for messages.
        load: Loads a model; by default a ``Loader`` of its own.

    Raises:
        ConfigError: Something is misspelt, out of range or missing.
        ModelNotFoundError: A reference leads nowhere.
        UnsupportedModelError: A model cannot do what a search needs.
    """
    described = {name: value for name, value in fields.items() if is_described({name: value})}
    with config_errors(PartsConfig, described, source):
        config = PartsConfig.model_validate({"type": kind, **described})
    proposer, guides = (
        getattr(config, name) if name in described else fields.get(name)
        for name in ("proposer", "guides")
    )
    scorer = fields.get("scorer")
    if "scorer" in described:
        scorer = config.scorer
    elif "scorer" not in fields and guides is not None:
        scorer = SCORER.build({})
    if isinstance(scorer, ScorerConfig):
        _check_guides(scorer, guides)
        scorer.preview()
    if load is None and described:
        from w2s_chains.backend.loading.local_model import Loader  # brings torch

        load = Loader()
    if isinstance(proposer, Model | ProposerConfig):
        proposer = load_proposer(proposer, load)
    if isinstance(guides, Guides):
        from w2s_chains.guides.pair import GuidePair  # brings torch

        guides = GuidePair.from_guides(guides, load)
    if isinstance(scorer, ScorerConfig):
        scorer = scorer.build_from(
            Parts(proposer=cast("Proposer", proposer), guides=guides, load=load)
        )
    elif scorer is not None and guides is None:
        guides = pair_of(scorer)
    others = {name: value for name, value in fields.items() if name not in _SLOTS}
    given = {} if proposer is None else {"proposer": proposer}
    return {**given, "guides": guides, "scorer": scorer, **others}


def pair_of(scorer: object | None) -> BaseGuidePair | None:
    """The guides that a scorer reads; None where it reads none."""
    return None if scorer is None else Scorer.of(scorer).pair


class Unloaded(Proposer):
    """Stands for a proposer while everything else is checked."""

    def propose(self, requests: Sequence[Expand]) -> Sequence[list[Hypothesis] | Exception]:
        raise AssertionError("it never answers")


def _check_guides(scoring: ScorerConfig | None, guides: object | None) -> None:
    if scoring is not None and scoring.needs_guides and guides is None:
        raise ConfigError(
            f"scorer {scoring.type!r} needs guides: give guides with tuned and untuned"
        )
