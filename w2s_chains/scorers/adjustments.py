"""Adjustments to any score: the proposer's loglikelihood, a repetition penalty, token counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Parts, Proposer
from w2s_chains.core.sampling import NotNegative, Weight
from w2s_chains.errors import ConfigError, ScorerError
from w2s_chains.scorers.config import BuiltInScorerConfig
from w2s_chains.values import as_scores

NGRAM = 3
"""The length in words of the sequences whose repetition is penalized."""


class AdjustedScorerConfig(BuiltInScorerConfig):
    """Options that adjust a score by the proposer's loglikelihood and by repetition.

    Attributes:
        base_weight: Weight of the proposer's own log p(y|x), which is added to the score.
        repetition_penalty: Subtracted from the score for every repeated sequence of three words
            in the answer.
    """

    base_weight: Weight = 0.0
    repetition_penalty: NotNegative = 0.0


def repeated_ngrams(text: str) -> int:
    """Count the sequences of three words (split by ``str.split``) that repeat an earlier one.

    This is the number of all sequences minus the number of distinct ones: 0 without repetition.
    """
    words = text.split()
    counts = Counter(zip(*(words[at:] for at in range(NGRAM)), strict=False))
    return counts.total() - len(counts)


def tokens(hypothesis: Hypothesis) -> int:
    """Return the number of the proposer's tokens in an answer, end token included; at least 1.

    Raises:
        ScorerError: The text does not come from a proposer, so its tokens were never counted.
    """
    if not hypothesis.n_tokens and hypothesis.response:
        raise ScorerError(
            f"the text {hypothesis.response!r} has no count of tokens, by which per_token divides; "
            "score texts that a proposer made, give n_tokens to Hypothesis.extend, or set "
            "per_token to false"
        )
    return max(hypothesis.n_tokens + hypothesis.ended, 1)


def require_loglikelihood(proposer: object) -> Proposer:
    """Return the proposer if it can compute loglikelihoods.

    Raises:
        ConfigError: The proposer cannot compute loglikelihoods.
    """
    if not Proposer.offered(proposer, "loglikelihood"):
        Proposer.of(proposer).loglikelihood(())  # raises
    return cast("Proposer", proposer)


def require_base(proposer: object | None, base_weight: float) -> Proposer | None:
    """Return the proposer that ``base_weight`` applies to; None if the weight is 0.

    Raises:
        ConfigError: There is no proposer, or it cannot compute loglikelihoods.
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
    """Refuse to write a scorer into a config whose proposer is not the scorer's.

    Raises:
        ConfigError: The scorer uses the loglikelihood of another proposer.
    """
    if base is not None and beside is not None and base is not beside.proposer:
        raise ConfigError(
            f"the scorer ({type(scorer).__name__}) takes the loglikelihood of another proposer "
            "than the one of this model, and a config names one"
        )


def own_loglikelihood(proposer: Proposer, hypotheses: Sequence[Hypothesis]) -> list[float]:
    """Return log p(y|x) of each hypothesis under a proposer.

    Raises:
        ScorerError: The proposer returned something else than one number for each.
    """
    source = f"loglikelihood of the proposer {type(proposer).__name__}"
    return as_scores(proposer.loglikelihood(hypotheses), hypotheses, source)


def adjusted(
    scores: Sequence[float],
    hypotheses: Sequence[Hypothesis],
    base: Proposer | None,
    base_weight: float,
    repetition_penalty: float,
) -> list[float]:
    """Return the adjusted scores.

    They are ``scores`` + base_weight * log p_base(y|x) - repetition_penalty * R(y), where R(y) is
    the number of repeated sequences of three words in y.
    """
    found = list(scores)
    if base is not None and base_weight:
        own = own_loglikelihood(base, hypotheses)
        found = [score + base_weight * value for score, value in zip(found, own, strict=True)]
    if repetition_penalty:
        found = [
            score - repetition_penalty * repeated_ngrams(h.response)
            for score, h in zip(found, hypotheses, strict=True)
        ]
    return found
