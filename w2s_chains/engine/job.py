"""``Job``, the description of one search, and ``SearchHandle``, the caller's view of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from w2s_chains.core.contracts import BaseGuidePair, TokenScores
from w2s_chains.core.events import Event, Failed, Finished
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer, Scorer
from w2s_chains.core.sampling import DEFAULT_SAMPLING, Constraint, SamplingParams
from w2s_chains.errors import ConfigError, ScorerError, ordinary
from w2s_chains.search.base import SearchStrategy
from w2s_chains.values import as_scores, as_token_scores

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """The description of one search for one answer.

    Attributes:
        root: The empty answer; jobs with the same root prefill its prompt once.
        strategy: How to search.
        proposer: The large model.
        scorer: Scores partial answers; None for strategies without scores.
        guides: The guide pair for token-level steering.
        sampling: How the proposer samples.
        seed: The resolved seed; ``sampling.seed`` is ignored.
        constraint: The form that the whole answer must have; None for any.
    """

    root: Hypothesis
    strategy: SearchStrategy
    proposer: Proposer
    scorer: Scorer | None = None
    guides: BaseGuidePair | None = None
    sampling: SamplingParams = DEFAULT_SAMPLING
    seed: int = 0
    constraint: Constraint | None = None

    def check(self) -> None:
        """Refuse a job that cannot work, before any model runs.

        Raises:
            ConfigError: The scorer or the guides that the strategy needs are missing, or the
                proposer does not support constraints.
            ConstraintError: The constraint cannot be satisfied, or not within ``max_tokens``.
            PromptError: The prompt does not fit one of the models.
        """
        try:
            self._check()
        except (StopIteration, StopAsyncIteration) as error:
            raise ordinary(error) from error

    def _check(self) -> None:
        if self.strategy.needs_scorer and self.scorer is None:
            raise ConfigError(
                f"strategy {self.strategy.type!r} chooses by a score, but there is no scorer; give "
                "guides (tuned=..., untuned=...) or scorer=..., or use strategy 'sampling'"
            )
        proposer = Proposer.of(self.proposer)
        scorer = None if self.scorer is None else Scorer.of(self.scorer)
        if self.strategy.scores_partial and scorer is not None and not scorer.partial:
            raise ConfigError(
                f"strategy {self.strategy.type!r} scores texts that go on, but the scorer judges "
                "whole answers only (partial: false); use strategy 'best_of_n', or set partial to "
                "true"
            )
        check_abilities(self.strategy.needs, self)
        if self.strategy.token_steering:
            proposer.check_steering(self.guides)
        if self.strategy.needs_token_ratios:
            self.pair.check_token_ratios()
        if "by_guide" in self.strategy.needs:
            proposer.check_writer(self.guides)
        if self.constraint is not None:
            check_constraint(self.constraint, proposer, self.sampling)
        proposer.check(self.root.prompt, self.sampling)
        if scorer is not None:
            scorer.check(self.root.prompt, self.sampling)

    @property
    def pair(self) -> BaseGuidePair:
        """The guides; raises ConfigError if there are none."""
        if self.guides is None:
            raise ConfigError(
                f"strategy {self.strategy.type!r} asks for log-ratios of single tokens, but there "
                "are no guides; give guides (tuned=..., untuned=...)"
            )
        return BaseGuidePair.of(self.guides)

    def scores(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Call the scorer; raises ScorerError if what it returns is no score for each."""
        assert self.scorer is not None
        found: object = self.scorer.score(hypotheses)
        return as_scores(found, hypotheses, f"the scorer {type(self.scorer).__name__}")

    def token_scores(self, hypotheses: Sequence[Hypothesis]) -> list[TokenScores]:
        """Return what the guides that score think of single tokens, or nothing if they cannot tell.

        Texts that were just scored are not read again.
        """
        pair = None if self.scorer is None else Scorer.of(self.scorer).pair
        if pair is None or pair is not self.guides:
            return []
        try:
            BaseGuidePair.of(pair).check_token_scores()
            return BaseGuidePair.of(pair).token_scores(hypotheses)
        except (ConfigError, ScorerError):  # of other vocabularies, or they cut a text differently
            return []

    def token_ratios(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, ...]]:
        """Call the guides; raises ScorerError if what they return is no numbers for each."""
        found: object = self.pair.token_ratios(hypotheses)
        return as_token_scores(found, hypotheses, f"the guide pair {type(self.guides).__name__}")


_ABILITIES = {
    "distinct": "draws candidates without replacement",
    "until": "ends chunks at a place in the text",
    "drafts": "lets the tuned guide write drafts",
    "by_guide": "lets the tuned guide write words",
}


_FREE = frozenset({"until", "drafts", "by_guide"})
"""Abilities for answers of no given form."""


def check_abilities(needs: Collection[str], job: Job) -> None:
    """Refuse a proposer that lacks an ability.

    Raises:
        ConfigError: It lacks one of ``needs``.
    """
    if job.constraint is not None and (free := sorted(_FREE & set(needs))):
        raise ConfigError(
            f"strategy {job.strategy.type!r} {_ABILITIES[free[0]]}, which an answer that has to "
            "have a form (tool call or structured output) does not allow; use another strategy"
        )
    for missing in sorted(set(needs) - Proposer.of(job.proposer).abilities):
        raise ConfigError(
            f"strategy {job.strategy.type!r} {_ABILITIES.get(missing, f'needs {missing!r}')}, "
            f"which the proposer {type(job.proposer).__name__} cannot; use a HuggingFaceProposer, "
            "or another strategy"
        )


def check_constraint(constraint: Constraint, proposer: Proposer, sampling: SamplingParams) -> None:
    """Refuse a constraint that answers cannot satisfy.

    Raises:
        ConfigError: The proposer does not support constraints, or stop strings could cut an answer.
        ConstraintError: The constraint cannot be satisfied, or not within ``max_tokens``.
    """
    Proposer.of(proposer).check_constraint(constraint, sampling)
    if sampling.stop:
        raise ConfigError(
            f"stop strings {list(sampling.stop)} could cut an answer that has to have a "
            "form (tool call or structured output); leave out stop, or the form"
        )


class SearchHandle:
    """The caller's view of a search: its result, its events, and a way to cancel it.

    Attributes:
        job: The job.
        future: The answer, or the error that ended the search.
        watched: Whether any listener uses events before the last one.
        traced: Whether events tell the tree of the search: ``Grown``, and numbers of nodes.
        scored: Whether events tell the candidates and their scores.
        cancelled: Whether ``cancel`` was called.
    """

    def __init__(
        self,
        job: Job,
        on_event: Callable[[Event], None] | None = None,
        watched: bool = True,
        traced: bool = False,
        scored: bool = True,
    ) -> None:
        """Create a handle; this does not start the search.

        Args:
            job: The job to run.
            on_event: Called on the engine's thread with every event.
            watched: Whether ``on_event`` uses events before the last one; if not, events that are
                costly to create are skipped.
            traced: Whether to tell the tree of the search.
            scored: Whether to tell ``Scored``, which holds the texts of all candidates.
        """
        self.job = job
        self.watched = watched and on_event is not None
        self.traced = traced and self.watched
        self.scored = scored and self.watched
        self.future: Future[Finished] = Future()
        self.future.set_running_or_notify_cancel()  # so that only ``cancel`` below stops a search
        self._on_event = on_event
        self.cancelled = False

    def cancel(self) -> None:
        """Stop the search before its next tick and free its memory."""
        self.cancelled = True

    def emit(self, event: Event) -> None:
        """Pass an event to the caller; called on the engine's thread."""
        if self._on_event is not None:
            try:
                self._on_event(event)
            except BaseException:  # one that got through would end other searches
                logger.exception("an event listener failed; the search goes on")
        if isinstance(event, Finished):
            self.future.set_result(event)
        elif isinstance(event, Failed):
            self.future.set_exception(event.error)
