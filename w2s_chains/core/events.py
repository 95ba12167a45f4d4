"""The events of a running search. They carry plain values, never nodes of the search tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from w2s_chains.core.hypothesis import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The next piece of the final answer; the pieces concatenate to the whole text."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedTokens:
    """What the guides think of the tokens that a candidate adds to its parent.

    Attributes:
        begin: Where the first of these tokens begins in the whole text, in characters. That may be
            in the text of the parent, whose end guides of another vocabulary may cut anew.
        texts: The text of each token; that of the end of the turn is empty.
        ratios: log p_tuned - log p_untuned of each token, in nats.
    """

    begin: int
    texts: tuple[str, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The candidates of one step and their scores, in the order of the request.

    Attributes:
        texts: Their whole texts.
        scores: Their scores.
        ids: Their numbers (``Candidate.id``); empty if the search is not traced.
        tokens: What the guides think of each that has not been scored before, by its number; empty
            if the search is not traced, or if guides that score cannot tell single tokens.
    """

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    ids: tuple[int, ...] = ()
    tokens: Mapping[int, GuidedTokens] = field(default_factory=dict[int, GuidedTokens])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node of a traced search tree.

    Attributes:
        id: Its number, in the order of creation; the root's is 0.
        parent: The number of the node that it continues.
        text: The text of this chunk alone.
        tokens: The proposer's tokens in it.
        logprob: Sum of log p of these tokens under the frozen model, in nats; None if the proposer
            does not report it.
        finish_reason: Why the answer ended here; None if it can go on.
    """

    id: int
    parent: int
    text: str
    tokens: int
    logprob: float | None = None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """The children of one round of a traced search.

    Attributes:
        round: The number of the round, from 1.
        candidates: The new nodes.
        dropped: Numbers of the nodes that the strategy has let go of since the last round.
        read_tokens: Rows that the proposer has read so far; None if it counts none.
        guide_tokens: Rows that the guides have read so far.
    """

    round: int
    candidates: tuple[Candidate, ...]
    dropped: tuple[int, ...] = ()
    read_tokens: int | None = None
    guide_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed:
    """Progress since the last such event, in tokens.

    The counts of a search add up to ``max_tokens``; an answer that ends early jumps to the end.
    """

    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer.

    Attributes:
        text: The whole answer.
        score: Its score; None without a scorer.
        finish_reason: Why it ended.
        completion_tokens: The proposer's tokens in the answer; None if it returns only text.
        prompt_tokens: Tokens of the prompt, which the proposer prefills once.
        read_tokens: Rows that the proposer read to grow the tree of this prompt: the search's cost;
            None if the proposer counts none.
        rounds: Number of ``Expand`` asks, each of which waited for the answer to the one before.
        proposed_tokens: Candidates considered: tokens sampled for this prompt, in all branches.
        guide_tokens: Rows that both guides read for this prompt; see ``Usage``.
        guide_flops_ratio: Estimated FLOPs of the guides divided by the proposer's, for this prompt;
            None if the size of a model is unknown, as behind a server.
        kl: Its mean over answers estimates KL(search || frozen model), in nats, both sampling with
            the same temperature, penalties and constraint. Steering contributes
            sum_t log q(y_t) - log p(y_t) of this answer, a Monte Carlo estimate that may be
            negative for a single answer; selection contributes an upper bound
            (``search.kl_bounds``). The value is thus 0 for plain sampling, an estimate for emulated
            fine-tuning and an upper bound for searches. None if no valid number exists: the
            strategy has no proven bound, steering is combined with ``top_p``, ``top_k``, ``min_p``
            or temperature 0 (the steered model may then sample tokens that the filtered frozen
            model cannot), or the proposer does not report the drift caused by steering.
        id: The number of its node (``Candidate.id``); None if the search is not traced.
    """

    text: str
    score: float | None
    finish_reason: FinishReason | None
    completion_tokens: int | None
    prompt_tokens: int
    read_tokens: int | None
    rounds: int
    proposed_tokens: int
    guide_tokens: int
    guide_flops_ratio: float | None = None
    kl: float | None = None
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The search failed; other searches continue."""

    error: Exception


Event = Committed | Scored | Grown | Progressed | Finished | Failed
