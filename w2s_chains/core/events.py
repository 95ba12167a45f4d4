"""What a search tells the outside while it runs. Events carry values, never nodes of the tree."""

from __future__ import annotations

from dataclasses import dataclass

from w2s_chains.core.hypothesis import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """More text of the final answer; never taken back. The pieces join to the final text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The candidates of one step and their scores, in the order they were asked for."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """So many more of the answer's ``max_tokens`` are done; an answer that ends early skips ahead.

    The counts of a search add up to ``max_tokens``.
    """

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer.

    Attributes:
        text: The whole answer.
        score: Its value under the scorer; None without one.
        finish_reason: Why it ended.
        completion_tokens: The proposer's tokens in the answer; None if it gives only text.
        prompt_tokens: Prompt tokens prefilled by the proposer.
        proposed_tokens: Tokens sampled for this prompt, in all branches.
        guide_tokens: Tokens read for this prompt by both guides together.
        kl: Its mean over answers estimates KL(search || frozen model), in nats, where both sample
            with the same temperature, penalties and form. Steering counts with
            sum_t log q(y_t) - log p(y_t) of this answer, so that single answers may be below 0
            (Monte Carlo); choosing counts with an upper bound (``search.kl_bounds``). So it is 0
            for plain sampling, an estimate for emulated fine-tuning, and an upper bound for
            searches. None where there is no honest number: a strategy without a proven bound,
            steering with ``top_p``, ``top_k`` or temperature 0 (the steered model then says what
            the filtered frozen one cannot), or steering that the proposer does not account for.
    """

    text: str
    score: float | None
    finish_reason: FinishReason | None
    completion_tokens: int | None
    prompt_tokens: int
    proposed_tokens: int
    guide_tokens: int
    kl: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The search ended in an error; its neighbours go on."""

    error: Exception


Event = Committed | Scored | Progressed | Finished | Failed
