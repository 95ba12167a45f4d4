"""What a config says about the scorer."""

from __future__ import annotations

from dataclasses import dataclass

from w2s_chains.core.plugins import Plugin
from w2s_chains.core.proposing import Proposer
from w2s_chains.core.scoring import BaseGuidePair, Scorer
from w2s_chains.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a scorer may be built from.

    Attributes:
        proposer: The large model.
        guides: What the section ``guide`` describes, loaded; None without one.
    """

    proposer: Proposer
    guides: BaseGuidePair | None = None


class ScorerConfig(Plugin):
    """The section ``scorer`` of a config.

    Third parties subclass it and register the class under the entry point group
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
        """Whether there must be a section ``guide``."""
        return False

    def preview(self) -> None:
        """Refuse what cannot work, before any weights are loaded.

        Raises:
            W2SError: A model is missing, or an option does not fit it.
        """

    def build_from(self, parts: Parts) -> Scorer:
        """The scorer, from whatever it needs; raises like ``build``."""
        return self.build(parts.guides)

    def build(self, guides: BaseGuidePair | None) -> Scorer:
        """The scorer.

        Args:
            guides: What the section ``guide`` describes, loaded; None without one.

        Raises:
            ConfigError: The class has neither this method nor ``score``.
        """
        if isinstance(self, Scorer):
            return self
        raise ConfigError(f"scorer {self.type!r} has neither a method score nor a method build")
