"""The section ``scorer`` of a config: its base class and its built-in types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from w2s_chains.core.configs import Config, Plugin
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.parts import Parts, Scorer
from w2s_chains.core.slots import LazyClasses, Slot
from w2s_chains.errors import ConfigError
from w2s_chains.guides.config import Guides


class ScorerConfig(Plugin):
    """The section ``scorer`` of a config.

    Other packages subclass it and register the class under the entry point group
    ``w2s_chains.scorers``. A class with a method ``score`` is the scorer itself:

        class Short(ScorerConfig):
            type: Literal["short"] = "short"
            weight: float = 1.0

            def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
                return [-self.weight * len(h.response) for h in hypotheses]

    One that needs the guides, or loads something, overrides ``build``; one that needs the proposer
    too overrides ``build_from``. What it builds keeps this object as ``spec``, so that it can be
    written to YAML again, and the guides as ``pair``.
    """

    @property
    def needs_guides(self) -> bool:
        """Whether there must be a section ``guides``."""
        return False

    def preview(self) -> None:
        """Refuse what cannot work, before any weights are loaded.

        Raises:
            W2SError: A model is missing, or an option does not fit it.
        """

    def own_guides(self) -> Sequence[Guides]:
        """The guide pairs that the scorer loads besides that of the section ``guides``."""
        return ()

    def build_from(self, parts: Parts) -> Scorer:
        """The scorer, from whatever it needs; raises like ``build``."""
        return self.build(parts.guides)

    def build(self, guides: BaseGuidePair | None) -> Scorer:
        """The scorer.

        Args:
            guides: What the section ``guides`` describes, loaded; None without one.

        Raises:
            ConfigError: The class has neither this method nor ``score``.
        """
        if isinstance(self, Scorer):
            return self
        raise ConfigError(f"scorer {self.type!r} has neither a method score nor a method build")


class BuiltInScorerConfig(ScorerConfig):
    """A scorer of this package, whose defaults stay what they are: files leave them out."""

    def written(self, chat: bool = False) -> dict[str, Any]:
        return Config.written(self, chat)


SCORERS = LazyClasses(
    llm_judge="w2s_chains.scorers.llm_judge:LLMJudgeConfig",
    log_ratio="w2s_chains.scorers.log_ratio:LogRatioConfig",
    loglikelihood="w2s_chains.scorers.loglikelihood:LoglikelihoodConfig",
    mixture="w2s_chains.scorers.mixture:MixtureConfig",
    reward_model="w2s_chains.scorers.reward_model:RewardModelConfig",
)
"""The built-in types; a new one is one line here."""

SCORER = Slot(
    kind="scorer",
    base=ScorerConfig,
    builtins=SCORERS,
    group="w2s_chains.scorers",
    default="log_ratio",
)

AnyScorer = Annotated[ScorerConfig, SCORER]
"""A config slot for a scorer."""
