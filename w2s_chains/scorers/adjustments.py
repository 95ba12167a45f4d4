"""What may be added to a score, and taken off it, whatever the score is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, cast

from pydantic import Field

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts, Proposer
from w2s_chains.errors import ConfigError, ScorerError
from w2s_chains.scorers.config import BuiltInScorerConfig

NGRAM = 3
"""Words of the sequences whose repetition is penalised."""

Weight = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class AdjustedScorerConfig(BuiltInScorerConfig):
    """What the large model and the text itself add to a score.

    Attributes:
        base_weight: Weight of log p(y|x) of the proposer itself, which is added.
        repetition_penalty: Taken off for every sequence of three words that the answer has said
            before.
    """

    base_weight: Weight = 0.0
    repetition_penalty: Penalty = 0.0


def repeated_ngrams(text: str) -> int:
    """Sequences of three words (as ``str.split`` has them) that came before in the text.

    That is all of them minus the distinct ones: 0 where nothing is repeated.
    """
    words = text.split()
    counts = Counter(zip(*(words[at:] for at in range(NGRAM)), strict=False))
    return counts.total() - len(counts)


def tokens(hypothesis: Hypothesis) -> int:
    """The proposer's tokens of an answer, the end token included; at least 1.

    Raises:
        ScorerError: The text does not come from a proposer, so that nobody has counted them.
    """
    if not hypothesis.n_tokens and hypothesis.response:
        raise ScorerError(
            f"the text {hypothesis.response!r} has no count of tokens, by which per_token divides; "
            "score texts that a proposer made, give n_tokens to Hypothesis.extend, or set "
            "per_token to false"
        )
    return max(hypothesis.n_tokens + hypothesis.ended, 1)


def require_loglikelihood(proposer: object) -> Proposer:
    """The proposer, if it can tell loglikelihoods.

    Raises:
        ConfigError: It cannot.
    """
    if not Proposer.offered(proposer, "loglikelihood"):
        Proposer.of(proposer).loglikelihood(())  # refuses
    return cast("Proposer", proposer)


def require_base(proposer: object | None, base_weight: float) -> Proposer | None:
    """What ``base_weight`` weighs; None where it is 0.

    Raises:
        ConfigError: There is no proposer, or it cannot tell loglikelihoods.
    """
    if not base_weight:
        return None
    if proposer is None:
        raise ConfigError(
            f"base_weight is {base_weight}, but there is no proposer whose loglikelihood could be "
            "added; give proposer=..., or leave base_weight at 0"
        )
    return require_loglikelihood(proposer)


def require_same_base(scorer: object, base: Proposer | None, beside: Parts | None) -> None:
    """Refuse to write a scorer into a config whose proposer is not the one that it reads.

    Raises:
        ConfigError: It takes the loglikelihood of another proposer.
    """
    if base is not None and beside is not None and base is not beside.proposer:
        raise ConfigError(
            f"the scorer ({type(scorer).__name__}) takes the loglikelihood of another proposer "
            "than the one of this model, and a config names one"
        )


def adjusted(
    scores: Sequence[float],
    hypotheses: Sequence[Hypothesis],
    base: Proposer | None,
    base_weight: float,
    repetition_penalty: float,
) -> list[float]:
    """``scores`` + base_weight * log p_base(y|x) - repetition_penalty * (repeated n-grams of y)."""
    found = list(scores)
    if base is not None and base_weight:
        own = base.loglikelihood(hypotheses)
        found = [score + base_weight * value for score, value in zip(found, own, strict=True)]
    if repetition_penalty:
        found = [
            score - repetition_penalty * repeated_ngrams(h.response)
            for score, h in zip(found, hypotheses, strict=True)
        ]
    return found
