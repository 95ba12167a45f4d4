"""``Engine``, which interleaves searches and answers their asks in batches, and ``tick``.

A search is a generator that yields asks, and the engine runs many of them at once. In every tick it
first answers the searches that wait for scores, with one call per scorer, then samples the next
tokens for those that wait for children, with one call per proposer. It also handles streaming,
cancelling and the isolation of failures, so strategies need not.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

from w2s_chains.core.asks import Expand, Score
from w2s_chains.core.events import Event
from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.search_state import SearchState
from w2s_chains.errors import CancelledError, ConfigError, ProposerError, W2SError, shown
from w2s_chains.forks import PATIENCE, Gate, wait_until_gone, watch_forks
from w2s_chains.values import as_scores

logger = logging.getLogger(__name__)

_asking: ContextVar[threading.Thread | None] = ContextVar("asking", default=None)
"""The engine's thread while it waits for a part; a part's own threads may inherit the value."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """Owns the thread that runs models; any number of threads and event loops may submit jobs.

    The thread exists only while there is work. A fork waits for the end of the tick, so that no
    model stands still in the middle of a forward pass in the child, where the engine starts anew.
    """

    def __init__(self, max_live: int = 64) -> None:
        """Create an engine.

        Args:
            max_live: Maximum number of searches that run at once; the others wait.

        Raises:
            ConfigError: ``max_live`` is less than 1, so that no search would ever run.
        """
        if not isinstance(cast("object", max_live), int) or max_live < 1:
            raise ConfigError(f"max_live is {shown(max_live)}; it must be at least 1")
        self.max_live = max_live
        self._closed = False
        self._torn = False  # forked in the middle of a tick
        self._start_anew()
        _engines.add(self)
        watch_forks(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._gate = Gate()
        self._waiting: deque[SearchHandle] = deque()
        self._thread: threading.Thread | None = None  # None while there is nothing to do
        self._latest: threading.Thread | None = None
        self._live: list[SearchState] = []

    def before_fork(self, timeout: float) -> bool:
        """Wait for the end of the tick, and of a thread that ends."""
        closed = self._gate.close(timeout)
        if closed and self._thread is None and self._latest is not None:
            wait_until_gone(self._latest, timeout)
        return closed

    def after_fork(self, ready: bool, in_child: bool) -> None:
        """Go on in the parent; forget the parent's searches in the child."""
        if in_child:
            self._torn |= not ready
            self._start_anew()
        elif ready:
            self._gate.open()

    def submit(
        self, jobs: Sequence[Job], on_event: Callable[[Event], None] | None = None
    ) -> list[SearchHandle]:
        """Start searches, all in the same tick.

        Args:
            jobs: Checked jobs (``Job.check``).
            on_event: Called on the engine's thread with every event of these jobs.

        Returns:
            One handle per job.

        Raises:
            W2SError: The call comes from a part that this engine is waiting for.
        """
        searches = [SearchHandle(job, on_event) for job in jobs]
        self.start(searches)
        return searches

    def start(self, searches: Sequence[SearchHandle]) -> None:
        """Start new searches, all in the same tick; raises like ``submit``."""
        if self._torn:
            raise W2SError(
                f"this process was forked while a model or server was at work for more than "
                f"{PATIENCE:g} seconds, so its copy of the models may be broken; fork earlier, or "
                "start processes with multiprocessing.set_start_method('spawn')"
            )
        asking = _asking.get()
        if asking is not None and asking is self._thread:
            raise W2SError(
                "a scorer or proposer asks the engine that is waiting for it, which would wait for "
                "ever; give the model that it asks an engine of its own (engine=Engine())"
            )
        with self._lock:
            self._waiting.extend(searches)
            if self._thread is None and self._waiting:
                self._thread = threading.Thread(
                    target=self._run, args=(self._latest,), name="w2s-engine", daemon=True
                )
                self._latest = self._thread
                self._thread.start()

    def close(self) -> None:
        """Cancel all searches and wait for the thread to end; called when Python exits.

        A thread still inside torch when the interpreter shuts down would abort the process.
        """
        self._closed = True
        for search in self._live:
            search.running.cancel()
        if self._latest is not None:
            self._latest.join()

    def _run(self, previous: threading.Thread | None) -> None:
        if previous is not None:
            previous.join()  # it has no more work, but only one thread may use the models
        while True:
            with self._gate.passing():  # a thread that is not at the gate has ended, or is to end
                if not self._turn():
                    return

    def _turn(self) -> bool:
        """Run one tick, or return False if there is nothing to do."""
        with self._lock:
            room = self.max_live - len(self._live)
            arrived = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            if not self._live and not arrived:
                self._thread = None
                return False
        live = self._live = [*self._live, *map(SearchState, arrived)]
        if self._closed:
            for search in live:
                search.running.cancel()
        try:
            tick(live)
        except BaseException as error:  # an internal error must not leave callers waiting
            logger.exception("the engine failed")
            for search in live:
                if not search.over:
                    search.fail(W2SError(f"the engine failed: {error!r}"))
        self._live = [search for search in live if not search.over]
        return True


def tick(live: Sequence[SearchState]) -> None:
    """Answer the searches' asks: scores first, then the next slice of children."""
    for search in live:
        if search.running.cancelled and not search.over:
            search.fail(CancelledError("the search was cancelled"))
    for group in _by(_waiting(live, Score), lambda search: id(search.job.scorer)):
        _score(group)
    for group in _by(_waiting(live, Expand), lambda search: id(search.job.proposer)):
        _propose(group)


def _waiting(live: Iterable[SearchState], kind: type) -> list[SearchState]:
    return [search for search in live if isinstance(search.ask, kind)]


def _by(
    searches: Iterable[SearchState], key: Callable[[SearchState], int]
) -> list[list[SearchState]]:
    groups: dict[int, list[SearchState]] = {}
    for search in searches:
        groups.setdefault(key(search), []).append(search)
    return list(groups.values())


@contextmanager
def _waiting_for_part() -> Generator[None]:
    token = _asking.set(threading.current_thread())
    try:
        yield
    finally:
        _asking.reset(token)


def _propose(group: Sequence[SearchState]) -> None:
    requests = [search.request() for search in group]
    try:
        with _waiting_for_part():
            answers = group[0].job.proposer.propose(requests)
        if len(answers) != len(requests):
            raise ProposerError(
                f"the proposer {type(group[0].job.proposer).__name__} answered {len(answers)} of "
                f"{len(requests)} requests; it must answer each of them"
            )
    except BaseException as error:
        _one_by_one(group, error, _propose)
        return
    for search, request, answer in zip(group, requests, answers, strict=True):
        if isinstance(answer, Exception):
            search.fail(answer)
        else:
            search.take_children(request, answer)


def _score(group: Sequence[SearchState]) -> None:
    scorer = group[0].job.scorer
    assert scorer is not None
    wanted = [search.unscored() for search in group]
    flat = [h for own in wanted for h in own]
    try:
        with _waiting_for_part():
            found = scorer.score(flat)
        scores = as_scores(found, [h.response for h in flat], f"the scorer {type(scorer).__name__}")
    except BaseException as error:
        _one_by_one(group, error, _score)
        return
    at = 0
    for search, own in zip(group, wanted, strict=True):
        search.take_scores(scores[at : at + len(own)])
        at += len(own)


def _one_by_one(
    group: Sequence[SearchState],
    error: BaseException,
    again: Callable[[Sequence[SearchState]], None],
) -> None:
    """Repeat a failed call for each search alone, so that only the culprit fails.

    Repeating is safe because an answer depends only on its request.
    """
    if len(group) == 1:
        group[0].fail(error)
        return
    for search in group:
        again([search])


def _close_all() -> None:
    for engine in list(_engines):
        engine.close()


atexit.register(_close_all)

_shared = Engine()


def shared_engine() -> Engine:
    """Return the engine of this process; concurrent callers of any LLM share its batches."""
    return _shared
