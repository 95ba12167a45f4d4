"""Runs searches: interleaves them, and answers what they ask for in batches.

A search is a generator that yields asks. The engine keeps many of them going; every tick it scores
whatever waits for scores, one call per scorer, and then lets every search that waits for children
have the next tokens of them, one call per proposer. Batching over prompts, streaming, cancelling
and the isolation of failures live here, and no strategy knows of them.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar
from weakref import WeakKeyDictionary

from w2s_chains.asks import DEFAULT_SAMPLING, Ask, Commit, Expand, SamplingParams, Score
from w2s_chains.contracts import Checks, Guides, Proposer, Scorer, Steerable
from w2s_chains.errors import (
    CancelledError,
    ConfigError,
    ProposerError,
    ScorerError,
    StrategyError,
    W2SError,
)
from w2s_chains.events import Committed, Event, Failed, Finished, Scored
from w2s_chains.hypothesis import Hypothesis
from w2s_chains.search.base import SearchStrategy

logger = logging.getLogger(__name__)

T = TypeVar("T")

SLICE_TOKENS = 16
"""Longer chunks are sampled so many tokens at a time: between two slices answers that ended or
stopped leave the batch, new searches join it, and cancelled ones go."""


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
    """

    root: Hypothesis
    strategy: SearchStrategy
    proposer: Proposer
    scorer: Scorer | None = None
    guides: Guides | None = None
    sampling: SamplingParams = DEFAULT_SAMPLING
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot work, before any model runs.

        Raises:
            ConfigError: The strategy needs a scorer or guides that are not there.
            PromptError: The prompt does not fit one of the models.
        """
        if self.strategy.needs_scorer and self.scorer is None:
            raise ConfigError(
                f"strategy {self.strategy.type!r} chooses by a score, but there is no scorer; give "
                "guides (tuned=..., untuned=...) or scorer=..., or use strategy 'sampling'"
            )
        if self.strategy.token_steering:
            if not isinstance(self.proposer, Steerable):
                raise ConfigError(
                    f"strategy {self.strategy.type!r} steers every token, which the proposer "
                    f"{type(self.proposer).__name__} cannot; use a HuggingFaceProposer"
                )
            self.proposer.check_steering(self.guides)
        for part in (self.proposer, self.scorer):
            if isinstance(part, Checks):
                part.check(self.root.prompt, self.sampling)


class Running:
    """A search under way, as its caller sees it."""

    def __init__(self, job: Job, on_event: Callable[[Event], None] | None) -> None:
        self.job = job
        self.future: Future[Finished] = Future()
        """The answer, or the error that ended the search."""
        self.future.set_running_or_notify_cancel()  # only ``cancel`` below can stop a search
        self._on_event = on_event
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop the search before its next tick and free its memory."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def watched(self) -> bool:
        """Whether anybody listens to events before the answer."""
        return self._on_event is not None

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


class Engine:
    """Owns the thread that runs models; any number of threads and event loops may submit.

    The thread lives while there is work.
    """

    def __init__(self, max_live: int = 64) -> None:
        """Make an engine.

        Args:
            max_live: Searches that run at once; the others wait.
        """
        self.max_live = max_live
        self._lock = threading.Lock()
        self._waiting: deque[Running] = deque()
        self._thread: threading.Thread | None = None

    def submit(
        self, jobs: Sequence[Job], on_event: Callable[[Event], None] | None = None
    ) -> list[Running]:
        """Start searches, all in the same tick.

        Args:
            jobs: Checked jobs (``Job.check``).
            on_event: Called on the engine's thread with every event of these jobs.

        Returns:
            One handle per job.
        """
        running = [Running(job, on_event) for job in jobs]
        with self._lock:
            self._waiting.extend(running)
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(target=self._run, name="w2s-engine", daemon=True)
                self._thread.start()
        return running

    def _run(self) -> None:
        live: list[_Live] = []
        while True:
            with self._lock:
                room = self.max_live - len(live)
                arrived = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
                if not live and not arrived:
                    self._thread = None
                    return
            live += [_Live(running) for running in arrived]
            del arrived
            try:
                tick(live)
            except BaseException as error:  # a fault of ours; nobody may wait for ever
                logger.exception("the engine failed")
                for search in live:
                    if not search.over:
                        search.fail(W2SError(f"the engine failed: {error!r}"))
            live = [search for search in live if not search.over]


class _Live:
    """A search between two ticks."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.job = running.job
        self.over = False
        self.ask: Ask | None = None
        self._search = self.job.strategy.search(self.job.root)
        self._scores: WeakKeyDictionary[Hypothesis, float] = WeakKeyDictionary()
        self._streamed = ""
        self._answer: Hypothesis | None = None
        self._children: list[Hypothesis] = []
        self._sampled = 0
        self.resume(None)

    def resume(self, answer: object) -> None:
        """Send an answer and run the strategy up to its next question."""
        self.ask = None
        try:
            while True:
                ask = self._search.send(answer)
                if not isinstance(ask, Commit):
                    break
                self._commit(ask.hypothesis)
                answer = None
        except StopIteration as stop:
            self._finish(stop.value)
        except Exception as error:
            self.fail(error)
        else:
            self._ask(ask)

    def _ask(self, ask: Expand | Score) -> None:
        self.ask = ask
        if isinstance(ask, Expand):
            self._children, self._sampled = [], 0
            if any(h.finished for h in ask.hypotheses) or not ask.hypotheses:
                self.fail(StrategyError("a strategy may expand only hypotheses that can go on"))
        elif self.job.scorer is None:
            self.fail(ConfigError("the strategy asks for scores, but there is no scorer"))
        elif not self.unscored():
            self.take_scores([])

    def fail(self, error: Exception) -> None:
        self._end(Failed(error=error))

    def _end(self, event: Event) -> None:
        self.over = True
        self.ask = None
        self._search.close()
        self.running.emit(event)

    # Children come slice by slice.

    def request(self) -> Expand:
        """The next slice of the children that are asked for."""
        ask = self.ask
        assert isinstance(ask, Expand)
        longest = SLICE_TOKENS
        if ask.chunk_tokens is not None:
            longest = min(longest, ask.chunk_tokens - self._sampled)
        first = not self._sampled
        return replace(
            ask,
            hypotheses=ask.hypotheses if first else tuple(self._unfinished()),
            successors=ask.successors if first else 1,
            chunk_tokens=longest,
            sampling=self.job.sampling,
            seed=self.job.seed,
            guides=self.job.guides if ask.steering else None,
        )

    def _unfinished(self) -> list[Hypothesis]:
        return [child for child in self._children if not child.finished]

    def take_children(self, request: Expand, children: Sequence[Hypothesis]) -> None:
        """The answer to ``request``; resumes the strategy when its children are complete."""
        ask = self.ask
        assert isinstance(ask, Expand)
        wanted = len(request.hypotheses) * request.successors
        if len(children) != wanted:
            self.fail(
                ProposerError(
                    f"the proposer {type(self.job.proposer).__name__} returned {len(children)} "
                    f"children where {wanted} were asked for; it must return "
                    "len(hypotheses) * successors"
                )
            )
            return
        if self._sampled:
            longer = iter(children)
            self._children = [c if c.finished else next(longer) for c in self._children]
        else:
            self._children = list(children)
        self._sampled += request.chunk_tokens or 0
        if not self._unfinished() or self._sampled == ask.chunk_tokens:
            complete, self._children = self._children, []
            self.resume(complete)

    # Scores are remembered, so that a hypothesis that is carried along is scored once.

    def unscored(self) -> list[Hypothesis]:
        assert isinstance(self.ask, Score)
        return list(dict.fromkeys(h for h in self.ask.hypotheses if h not in self._scores))

    def take_scores(self, scores: Sequence[float]) -> None:
        """The scores of what ``unscored`` returned; resumes the strategy."""
        ask = self.ask
        assert isinstance(ask, Score)
        self._scores.update(zip(self.unscored(), scores, strict=True))
        values = [self._scores[h] for h in ask.hypotheses]
        if self._answer is not None:
            self._finish(self._answer)
            return
        if self.running.watched:
            texts = tuple(h.response for h in ask.hypotheses)
            self.running.emit(Scored(texts=texts, scores=tuple(values)))
        del ask  # it holds hypotheses that the strategy is about to drop
        self.resume(values)

    # Text goes out as it is committed.

    def _commit(self, hypothesis: Hypothesis) -> None:
        text = hypothesis.response
        if not hypothesis.finished:
            text = text[: len(text) - _may_begin_stop(text, self.job.sampling.stop)]
        self._stream(text)

    def _stream(self, text: str) -> None:
        if len(text) < len(self._streamed) and self._streamed.startswith(text):
            return  # an earlier commit went further
        if not text.startswith(self._streamed):
            raise StrategyError(
                f"strategy {self.job.strategy.type!r} took back committed text: it committed "
                f"{self._streamed!r} and then {text!r}; commit only what every later answer keeps"
            )
        if new := text[len(self._streamed) :]:
            self._streamed = text
            self.running.emit(Committed(text=new))

    def _finish(self, answer: object) -> None:
        if not isinstance(answer, Hypothesis):
            self.fail(
                StrategyError(
                    f"strategy {self.job.strategy.type!r} returned {answer!r}; it must return the "
                    "Hypothesis that answers"
                )
            )
            return
        self._answer = answer
        if self.job.scorer is not None and answer not in self._scores:
            self.ask = Score(hypotheses=(answer,))
            return
        try:
            text = answer.response
            if not text.startswith(self._streamed):
                raise StrategyError(
                    f"strategy {self.job.strategy.type!r} took back committed text: it committed "
                    f"{self._streamed!r} and returned {text!r}"
                )
            self._stream(text)
        except StrategyError as error:
            self.fail(error)
            return
        usage = answer.usage
        self._end(
            Finished(
                text=text,
                score=self._scores.get(answer),
                finish_reason=answer.finish_reason,
                completion_tokens=answer.n_tokens,
                prompt_tokens=usage.prompt_tokens,
                proposed_tokens=usage.proposed_tokens,
                guide_tokens=usage.guide_tokens,
            )
        )


def tick(live: Sequence[_Live]) -> None:
    """Answer what the searches wait for: scores first, then the next slice of children."""
    for search in live:
        if search.running.cancelled and not search.over:
            search.fail(CancelledError("the search was cancelled"))
    for group in _by(_waiting(live, Score), lambda search: id(search.job.scorer)):
        _score(group)
    for group in _by(_waiting(live, Expand), lambda search: id(search.job.proposer)):
        _propose(group)


def _waiting(live: Iterable[_Live], kind: type) -> list[_Live]:
    return [search for search in live if isinstance(search.ask, kind)]


def _by(searches: Iterable[_Live], key: Callable[[_Live], int]) -> list[list[_Live]]:
    groups: dict[int, list[_Live]] = {}
    for search in searches:
        groups.setdefault(key(search), []).append(search)
    return list(groups.values())


def _propose(group: Sequence[_Live]) -> None:
    requests = [search.request() for search in group]
    try:
        answers = group[0].job.proposer.propose(requests)
        if len(answers) != len(requests):
            raise ProposerError(
                f"the proposer {type(group[0].job.proposer).__name__} answered {len(answers)} of "
                f"{len(requests)} requests; it must answer each of them"
            )
    except Exception as error:
        _one_by_one(group, error, _propose)
        return
    for search, request, children in zip(group, requests, answers, strict=True):
        search.take_children(request, children)


def _score(group: Sequence[_Live]) -> None:
    scorer = group[0].job.scorer
    assert scorer is not None
    wanted = [search.unscored() for search in group]
    flat = [h for own in wanted for h in own]
    try:
        scores = [float(score) for score in scorer.score(flat)]
        if len(scores) != len(flat):
            raise ScorerError(
                f"the scorer {type(scorer).__name__} returned {len(scores)} scores for "
                f"{len(flat)} hypotheses; it must return one for each, in order"
            )
    except Exception as error:
        _one_by_one(group, error, _score)
        return
    at = 0
    for search, own in zip(group, wanted, strict=True):
        mine = scores[at : at + len(own)]
        at += len(own)
        broken = next((i for i, score in enumerate(mine) if math.isnan(score)), None)
        if broken is None:
            search.take_scores(mine)
        else:
            search.fail(
                ScorerError(
                    f"the scorer {type(scorer).__name__} returned NaN for the text "
                    f"{own[broken].response!r}; a score must be a number"
                )
            )


def _one_by_one(
    group: Sequence[_Live], error: Exception, again: Callable[[Sequence[_Live]], None]
) -> None:
    """A call failed: ask for each search alone, so that only the culprit fails.

    Asking again is safe because an answer depends on nothing but its request.
    """
    if len(group) == 1:
        group[0].fail(error)
        return
    for search in group:
        again([search])


def _may_begin_stop(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of ``text`` that may turn out to begin a stop string."""
    longest = max((len(s) for s in stop), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(len(s) > size and s.startswith(text[-size:]) for s in stop):
            return size
    return 0


_shared = Engine()


def shared_engine() -> Engine:
    """The engine of this process; concurrent callers of any LLM share its batches."""
    return _shared
