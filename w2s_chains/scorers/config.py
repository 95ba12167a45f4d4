"""The section ``scorer`` of a config: its base classes, its built-in types and its slot."""

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

    Other packages subclass this class and register the class under the entry point group
    ``w2s_chains.scorers``. A subclass with a method ``score`` is the scorer itself:

        class Short(ScorerConfig):
            type: Literal["short"] = "short"
            weight: float = 1.0

            def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
                return [-self.weight * len(h.response) for h in hypotheses]

    A subclass that needs the guides or loads something overrides ``build``; one that also needs
    the proposer overrides ``build_from``. The scorer it builds keeps this config as ``spec``, so
    that it can be written to YAML again, and the guides as ``pair``.
    """

    @property
    def needs_guides(self) -> bool:
        """Whether the scorer needs a section ``guides``."""
        return False

    def preview(self) -> None:
        """Refuse a config that cannot work, before any weights are loaded.

        Raises:
            W2SError: A model is missing, or an option does not fit it.
        """

    def own_guides(self) -> Sequence[Guides]:
        """Return the guide pairs that the scorer loads besides the section ``guides``."""
        return ()

    def build_from(self, parts: Parts) -> Scorer:
        """Build the scorer from the parts that it needs; raises like ``build``."""
        return self.build(parts.guides)

    def build(self, guides: BaseGuidePair | None) -> Scorer:
        """Build the scorer.

        Args:
            guides: The loaded section ``guides``; None without such a section.

        Raises:
            ConfigError: The class has neither this method nor ``score``.
        """
        if isinstance(self, Scorer):
            return self
        raise ConfigError(f"scorer {self.type!r} has neither a method score nor a method build")


class BuiltInScorerConfig(ScorerConfig):
    """A scorer of this package; its defaults never change, so files leave them out."""

    def written(self, chat: bool = False) -> dict[str, Any]:
        return Config.written(self, chat)


SCORERS = LazyClasses(
    llm_judge="w2s_chains.scorers.llm_judge:LLMJudgeConfig",
    log_ratio="w2s_chains.scorers.log_ratio:LogRatioConfig",
    loglikelihood="w2s_chains.scorers.loglikelihood:LoglikelihoodConfig",
    mixture="w2s_chains.scorers.mixture:MixtureConfig",
    reward_model="w2s_chains.scorers.reward_model:RewardModelConfig",
)
"""The built-in types; add a new one here."""

SCORER = Slot(
    kind="scorer",
    base=ScorerConfig,
    builtins=SCORERS,
    group="w2s_chains.scorers",
    default="log_ratio",
)

AnyScorer = Annotated[ScorerConfig, SCORER]
"""The type of a config field that holds a scorer."""
