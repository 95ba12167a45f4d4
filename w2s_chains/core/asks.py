"""The asks of a strategy: ``Expand`` and ``Expands``, ``Score`` and ``TokenRatios``, and others.

The others are ``Commit`` and ``RandomStream``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import DEFAULT_SAMPLING, Constraint, SamplingParams, fork


def never() -> bool:
    """Return False: the default for asks that nobody can cancel."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Until:
    """Where a chunk ends before it has ``chunk_tokens`` tokens.

    Distributions are those of the model that writes, at temperature 1 and unfiltered.

    Attributes:
        strings: It ends with the token in which one of these strings ends, such as ".".
        word: It ends before a token that begins with a space, once it has a visible character.
        entropy: It ends before a token whose distribution has more entropy than this, in nats.
        top_probability: It ends before a token whose likeliest value has less probability than
            this.
        least: Tokens that it has at least, wherever it would end. If 0, it may have none: the child
            is then the hypothesis itself.
    """

    strings: tuple[str, ...] = ()
    word: bool = False
    entropy: float | None = None
    top_probability: float | None = None
    least: int = 1

    @property
    def by_text(self) -> bool:
        """Whether the text of a chunk may end it, rather than a distribution alone."""
        return self.word or bool(self.strings)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expand:
    """Continue each hypothesis. The answer is one flat list of children, in order.

    If a stop string begins in earlier text, the child's parent is an ancestor of the hypothesis.

    Attributes:
        hypotheses: The hypotheses to continue, all unfinished.
        successors: Number of children per hypothesis (K).
        chunk_tokens: Maximum tokens per child (L); None continues until the answer is finished.
        first: Number of the first child. Children are a function of their number, so a hypothesis
            that has K of them gets further ones with ``first=K``. (A server that returns several
            samples for one seed makes them a function of the request.)
        distinct: Whether the children of a hypothesis begin with different tokens, drawn without
            replacement (Gumbel top-k, Kool et al., 2019); at temperature 0 these are the likeliest
            ones. Where the filters leave fewer tokens, the first children come again.
        until: Where a child ends earlier; None ends it by its number of tokens alone.
        may_be_whole: Whether chunks only serve streaming. If so, a proposer that can only return
            whole answers may return one.
        steering: Sample every token from softmax(log p_base + steering * (log p_tuned -
            log p_untuned)) (emulated fine-tuning, Mitchell et al., 2023).
        drafts: Whether the tuned guide drafts the chunk and the proposer reads it in one pass
            (speculative sampling, Leviathan et al., 2023). Tokens have the same distribution, and
            children may be shorter than ``chunk_tokens``. Needs steering.
        by_guide: Whether the tuned guide writes the children instead of the proposer. If its
            vocabulary is another one, they are text without token ids, and ``n_tokens`` counts the
            guide's. Goes neither with steering nor with drafts.
        sampling: How to sample; filled in by the engine.
        seed: Seed of this search; filled in by the engine.
        guides: The guide pair that steers or writes; filled in by the engine if one does.
        constraint: The form that the whole answer must have; filled in by the engine.
        cancelled: Returns whether the search was cancelled; filled in by the engine. A proposer
            that waits for another process or a server polls it.
    """

    hypotheses: tuple[Hypothesis, ...]
    successors: int = 1
    chunk_tokens: int | None = None
    first: int = 0
    distinct: bool = False
    until: Until | None = None
    may_be_whole: bool = False
    steering: float = 0.0
    drafts: bool = False
    by_guide: bool = False
    sampling: SamplingParams = DEFAULT_SAMPLING
    seed: int = 0
    guides: BaseGuidePair | None = None
    constraint: Constraint | None = None
    cancelled: Callable[[], bool] = never

    @property
    def needs(self) -> frozenset[str]:
        """The abilities of a proposer that this ask needs (``Proposer.abilities``)."""
        used = {
            "distinct": self.distinct,
            "until": self.until is not None,
            "drafts": self.drafts,
            "by_guide": self.by_guide,
        }
        return frozenset(name for name, wanted in used.items() if wanted)

    def streams(self, hypothesis: Hypothesis) -> list[int]:
        """Return the random streams of a hypothesis' children (``Hypothesis.stream``)."""
        numbers = range(self.first, self.first + self.successors)
        return [
            hypothesis.stream if i == 0 else fork(hypothesis.stream, i, hypothesis.n_tokens)
            for i in numbers
        ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expands:
    """Several ``Expand`` asks at once. The answer is a list with the children of each.

    Hypotheses with different numbers of successors, or chunks of different lengths, thus grow in
    one round.
    """

    asks: tuple[Expand, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Score:
    """Score each hypothesis. The answer is one float per hypothesis, in order."""

    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenRatios:
    """Ask for log p_tuned - log p_untuned of each token. The answer is one tuple per hypothesis.

    It has a float for each token of the answer, in nats, in the guides' own tokens, and one for the
    end token if the hypothesis ended its turn. Needs guides that share a vocabulary
    (``SearchStrategy.needs_token_ratios``).
    """

    hypotheses: tuple[Hypothesis, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Commit:
    """Declare the text up to this hypothesis final. The answer is None."""

    hypothesis: Hypothesis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RandomStream:
    """Ask for random numbers of the strategy's own. The answer is a ``random.Random``.

    It depends on the prompt and the seed alone, so that an answer never depends on others. A search
    that asks again gets the same object.
    """


Ask = Expand | Expands | Score | TokenRatios | Commit | RandomStream
