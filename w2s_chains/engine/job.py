"""One search for one answer: what is to be done, and how its caller follows it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.events import Event, Failed, Finished
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer, Scorer
from w2s_chains.core.sampling import DEFAULT_SAMPLING, Constraint, SamplingParams
from w2s_chains.errors import ConfigError
from w2s_chains.search.base import SearchStrategy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One search for one answer.

    Attributes:
        root: The empty answer; jobs that share it share the reading of its prompt.
        strategy: How to search.
        proposer: The large model.
        scorer: The value of partial answers; None for strategies that need none.
        guides: The pair for token-level steering.
        sampling: How the proposer samples.
        seed: Resolved seed; ``sampling.seed`` is not looked at.
        constraint: What form the whole answer must have; None for any.
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
        """Refuse what cannot work, before any model runs.

        Raises:
            ConfigError: The strategy needs a scorer or guides that are not there, or the proposer
                cannot keep to a constraint.
            ConstraintError: The constraint cannot be honoured, or not within ``max_tokens``.
            PromptError: The prompt does not fit one of the models.
        """
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
        if self.strategy.token_steering:
            proposer.check_steering(self.guides)
        if self.constraint is not None:
            check_constraint(self.constraint, proposer, self.sampling)
        proposer.check(self.root.prompt, self.sampling)
        if scorer is not None:
            scorer.check(self.root.prompt, self.sampling)


def check_constraint(constraint: Constraint, proposer: Proposer, sampling: SamplingParams) -> None:
    """Refuse a form that an answer cannot have.

    Raises:
        ConfigError: The proposer cannot keep to a constraint, or stop strings could cut an answer.
        ConstraintError: The constraint cannot be honoured, or not within ``max_tokens``.
    """
    Proposer.of(proposer).check_constraint(constraint, sampling)
    if sampling.stop:
        raise ConfigError(
            f"stop strings {list(sampling.stop)} could cut an answer that has to have a "
            "form (tool call or structured output); leave out stop, or the form"
        )


class SearchHandle:
    """A search as its caller sees it.

    Attributes:
        job: What it is to do.
        future: Its answer, or the error that ended it.
        watched: Whether anybody listens to events before the answer.
    """

    def __init__(
        self, job: Job, on_event: Callable[[Event], None] | None = None, watched: bool = True
    ) -> None:
        """Describe a search that has not begun.

        Args:
            job: What to do.
            on_event: Called on the engine's thread with every event.
            watched: Whether ``on_event`` looks at anything but the last event; events that are
                costly to make are left out if not.
        """
        self.job = job
        self.watched = watched and on_event is not None
        self.future: Future[Finished] = Future()
        self.future.set_running_or_notify_cancel()  # only ``cancel`` below can stop a search
        self._on_event = on_event
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop the search before its next tick and free its memory."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def emit(self, event: Event) -> None:
        """Tell the caller; the engine's thread calls this."""
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("an event listener failed; the search goes on")
        if isinstance(event, Finished):
            self.future.set_result(event)
        elif isinstance(event, Failed):
            self.future.set_exception(event.error)
