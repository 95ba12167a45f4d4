"""``SteeringPair``: two guides that steer a proposer token by token (emulated fine-tuning)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.paths import Paths, read_together
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SteeringPair:
    """The paths of the tuned and the untuned guide, which share the proposer's vocabulary."""

    tuned: Paths
    untuned: Paths

    @property
    def models(self) -> tuple[CausalLM, CausalLM]:
        return self.tuned.lm, self.untuned.lm

    def read(self, hypotheses: Sequence[Hypothesis]) -> None:
        """Make both guides read what they have not read yet, so that sampling can go on."""
        for rows in read_together((self.tuned, self.untuned), hypotheses, scored=True):
            rows.hypothesis.usage.add_guide(rows.number, rows.flops_per_token)

    def count(self, hypothesis: Hypothesis, rows: int) -> None:
        """Count rows that both guides read while children of a hypothesis were sampled."""
        for paths in (self.tuned, self.untuned):
            hypothesis.usage.add_guide(rows, paths.flops_per_token)

    def segments(self, hypothesis: Hypothesis) -> tuple[Segment, Segment]:
        return self.tuned[hypothesis], self.untuned[hypothesis]

    def keep(self, hypothesis: Hypothesis, segments: Sequence[Segment]) -> None:
        """Store the segments that the guides read while this hypothesis was sampled."""
        for paths, segment in zip((self.tuned, self.untuned), segments, strict=True):
            paths.keep(hypothesis, segment)


def require_steering(guides: BaseGuidePair | None, vocabulary: str) -> SteeringPair:
    """Make a steering pair from guides.

    Args:
        guides: A pair of guides, or None.
        vocabulary: Fingerprint of the proposer's vocabulary.

    Raises:
        ConfigError: There are no guides, they are not local models, or their vocabulary is not
            the proposer's.
    """
    both = None if guides is None else BaseGuidePair.of(guides).local_models()
    if both is None:
        raise ConfigError(
            "token-level steering needs a GuidePair of two local models; pass one as guides=..., "
            "or use a strategy without steering (chunk_beam, best_of_n)"
        )
    tuned, untuned = (model.paths for model in both)
    for name, paths in (("tuned", tuned), ("untuned", untuned)):
        if paths.tokenizer.vocabulary != vocabulary:
            raise ConfigError(
                f"token-level steering needs guides with the proposer's vocabulary, but the {name} "
                f"guide {paths.tokenizer.name!r} has another one; use guides of the "
                "proposer's family, or a strategy without steering (chunk_beam, best_of_n)"
            )
    return SteeringPair(tuned, untuned)
