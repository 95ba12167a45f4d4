"""``Engine``, which interleaves searches and answers their asks in batches.

A search is a generator that yields asks, and the engine runs many of them at once. In every tick it
first answers the searches that wait for scores, with one call per scorer, then samples the next
tokens for those that wait for children, with one call per proposer. It also handles streaming,
cancelling and the isolation of failures, so strategies need not.

While a part waits for a server, its searches are away and another thread leads the others on. All
code of parts and strategies runs in turns: one thread at a time.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import cast

from w2s_chains.core.asks import Expand, Expands, Score, TokenRatios
from w2s_chains.core.events import Event, Failed
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.engine.job import Job, SearchHandle
from w2s_chains.engine.search_state import SearchState
from w2s_chains.engine.visits import Turns, Visit, asks_itself, set_apart
from w2s_chains.errors import CancelledError, ConfigError, ProposerError, W2SError, shown
from w2s_chains.forks import PATIENCE, Forking, wait_until_gone, watch_forks

logger = logging.getLogger(__name__)

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine(Forking):
    """Owns the thread that runs models; any number of threads and event loops may submit jobs.

    The thread exists only while there is work. A fork waits for the end of the turn, so that no
    model stands still in the middle of a forward pass in the child, where the engine starts anew.
    """

    def __init__(self, max_live: int = 64) -> None:
        """Create an engine.

        Args:
            max_live: Maximum number of searches that run at once; the others wait. Searches that
                wait for a server only count against others with the same parts.

        Raises:
            ConfigError: ``max_live`` is less than 1, so that no search would ever run.
        """
        if not isinstance(cast("object", max_live), int) or max_live < 1:
            raise ConfigError(f"max_live is {shown(max_live)}; it must be at least 1")
        self.max_live = max_live
        self._closed = False
        self._torn = False  # forked in the middle of a turn
        self._start_anew()
        _engines.add(self)
        watch_forks(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[int, int], deque[SearchHandle]] = {}  # by their parts
        self._thread: threading.Thread | None = None  # the one that leads; None if there is none
        self._threads: set[threading.Thread] = set()  # with those that wait in a part
        self._ended: deque[threading.Thread] = deque(maxlen=8)
        self._turns = Turns()
        self._left = 0  # how often a thread has stopped to lead because a part waits
        self._live: list[SearchState] = []

    def before_fork(self, timeout: float) -> bool:
        """Wait for the end of the turn, and of threads that end."""
        ready = self._turns.acquire(timeout)
        for thread in self._ended if ready else ():
            wait_until_gone(thread, timeout)
        return ready

    def after_fork(self, ready: bool, in_child: bool) -> None:
        """Go on in the parent; forget the parent's searches in the child."""
        if in_child:
            self._torn |= not ready
            self._start_anew()
        elif ready:
            self._turns.release()

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
        self._check_free()
        with self._lock:
            for search in searches:
                self._waiting.setdefault(_parts(search.job), deque()).append(search)
            self._lead_on()

    @contextmanager
    def turn(self) -> Generator[None]:
        """Have the parts to itself: between two ticks, this thread may call them by hand.

        Searches go on when it ends, and while a part waits for a server. Waiting for the turn
        blocks the thread.

        Raises:
            W2SError: The call comes from a part that this engine is waiting for.
        """
        self._check_free()
        self._turns.acquire()
        try:
            with self._visit(()).begun():
                yield
        finally:
            self._turns.release()

    def _check_free(self) -> None:
        if self._torn:
            raise W2SError(
                "this process was forked while a model was at work for more than "
                f"{PATIENCE:g} seconds, so its copy of the models may be broken; fork earlier, or "
                "start processes with multiprocessing.set_start_method('spawn')"
            )
        if asks_itself(self):
            raise W2SError(
                "a scorer or proposer asks the engine that is waiting for it, which would wait for "
                "ever; give the model that it asks an engine of its own (engine=Engine())"
            )

    def close(self) -> None:
        """Cancel all searches and wait for the threads to end; called when Python exits.

        A thread still inside torch when the interpreter shuts down would abort the process.
        """
        self._closed = True
        for search in self._live:
            search.running.cancel()
        while threads := list(self._threads):
            for thread in threads:
                thread.join()

    def _lead_on(self) -> None:
        """Start a thread if none leads and there is work; call it with the lock."""
        work = self._waiting or any(not search.away for search in self._live)
        if self._thread is None and work:
            self._thread = threading.Thread(target=self._run, name="w2s-engine", daemon=True)
            self._threads.add(self._thread)
            self._thread.start()

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            self._turns.acquire()
            try:
                with self._lock:
                    if self._thread is None:
                        self._thread = me  # its part has stopped waiting, and nobody else leads
                    self._live = [search for search in self._live if not search.over]
                    here = [search for search in self._live if not search.away]
                    leads = self._thread is me
                    arrived = self._admitted(self.max_live - len(here)) if leads else []
                    if not (leads and (here or arrived)):
                        self._thread = None if leads else self._thread
                        self._threads.discard(me)
                        self._ended.append(me)
                        return
                self._tick(here, arrived)
                del here, arrived
            finally:
                self._turns.release()

    def _admitted(self, room: int) -> list[SearchHandle]:
        """Take waiting searches that may start, in turn from each kind; call it with the lock."""
        arrived: list[SearchHandle] = []
        count = Counter(_parts(search.job) for search in self._live if self._waiting)
        kinds = deque(self._waiting)
        while kinds and len(arrived) < room:
            kind = kinds.popleft()
            if count[kind] >= self.max_live:
                continue
            count[kind] += 1
            arrived.append(self._waiting[kind].popleft())
            if self._waiting[kind]:
                kinds.append(kind)
            else:
                del self._waiting[kind]
        return arrived

    def _tick(self, here: list[SearchState], arrived: Iterable[SearchHandle]) -> None:
        """Answer the searches' asks: scores first, then the next slice of children."""
        left = self._left
        group: Sequence[SearchState] = here
        try:
            for running in arrived:
                here.append(SearchState(running))
                self._live.append(here[-1])
            for search in here:
                if self._closed:
                    search.running.cancel()
                if search.running.cancelled and not search.over:
                    search.fail(CancelledError("the search was cancelled"))
            for kinds, of, answer in (
                ((Score,), _scorer_of, self._score),
                ((TokenRatios,), _guides_of, self._score),
                ((Expand, Expands), _proposer_of, self._propose),
            ):
                for group in _by(_waiting(here, kinds), of):
                    answer(group)
                    if self._left != left:
                        return  # meanwhile another thread may have led the others on
        except BaseException as error:  # an internal error must not leave callers waiting
            logger.exception("the engine failed")
            failed = W2SError(f"the engine failed: {error!r}")
            for search in here if self._left == left else group:
                if not search.over:
                    search.fail(failed)
            for running in arrived if self._left == left else ():
                if not running.future.done():  # it has not even begun
                    running.emit(Failed(error=failed))

    # Calls of parts.

    def _visit(self, group: Sequence[SearchState]) -> Visit:
        def leave() -> None:
            with self._lock:
                self._left += 1
                for search in group:
                    search.away = True
                if self._thread is threading.current_thread():
                    self._thread = None
                self._lead_on()
            self._turns.release()

        def come_back() -> None:
            self._turns.acquire()
            with self._lock:
                for search in group:
                    search.away = False

        return Visit(self, group, leave, come_back)

    def _propose(self, group: Sequence[SearchState]) -> None:
        requests = [search.requests() for search in group]
        flat = [request for own in requests for request in own]
        proposer = group[0].job.proposer
        try:
            with self._visit(group).begun():
                answers = proposer.propose(flat)
            if len(answers) != len(flat):
                raise ProposerError(
                    f"the proposer {type(proposer).__name__} answered {len(answers)} of "
                    f"{len(flat)} requests; it must answer each of them"
                )
        except BaseException as error:
            set_apart(group, error)
            return
        following = iter(answers)
        for search, own in zip(group, requests, strict=True):
            taken = [next(following) for _ in own]
            search.apart = False
            if errors := [answer for answer in taken if isinstance(answer, Exception)]:
                search.fail(errors[0])
            else:
                search.take_children(own, cast("list[list[Hypothesis]]", taken))

    def _score(self, group: Sequence[SearchState]) -> None:
        job = group[0].job
        score = job.scores if isinstance(group[0].ask, Score) else job.token_ratios
        wanted = [search.unscored() for search in group]
        flat = [h for own in wanted for h in own]
        try:
            with self._visit(group).begun():
                scores = score(flat)
                for search, own in zip(group, wanted, strict=True):
                    search.look_at(own)
        except BaseException as error:
            set_apart(group, error)
            return
        at = 0
        for search, own in zip(group, wanted, strict=True):
            search.apart = False
            search.take_scores(scores[at : at + len(own)])
            at += len(own)


def _parts(job: Job) -> tuple[int, int]:
    return id(job.proposer), id(job.scorer)


def _proposer_of(search: SearchState) -> tuple[int, int]:
    return id(search.job.proposer), id(search) if search.apart else 0


def _scorer_of(search: SearchState) -> tuple[int, int]:
    return id(search.job.scorer), id(search) if search.apart else 0


def _guides_of(search: SearchState) -> tuple[int, int]:
    return id(search.job.guides), id(search) if search.apart else 0


def _waiting(live: Iterable[SearchState], kinds: tuple[type, ...]) -> list[SearchState]:
    return [search for search in live if isinstance(search.ask, kinds)]


def _by(
    searches: Iterable[SearchState], key: Callable[[SearchState], tuple[int, int]]
) -> list[list[SearchState]]:
    groups: dict[tuple[int, int], list[SearchState]] = {}
    for search in searches:
        groups.setdefault(key(search), []).append(search)
    return list(groups.values())


def _close_all() -> None:
    for engine in list(_engines):
        engine.close()


atexit.register(_close_all)

_shared = Engine()


def shared_engine() -> Engine:
    """Return the engine of this process; concurrent callers of any LLM share its batches."""
    return _shared
