"""``SearchState``, a search between two ticks of the engine: its pending ask and its results.

Long chunks are sampled slice by slice, scores are cached, and committed text is streamed as soon as
it can no longer become part of a stop string.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from w2s_chains.core.asks import (
    Ask,
    Commit,
    Expand,
    Expands,
    RandomStream,
    Score,
    TokenRatios,
)
from w2s_chains.core.events import (
    Committed,
    Event,
    Failed,
    Finished,
    GuidedTokens,
    Progressed,
    Scored,
)
from w2s_chains.core.hypothesis import Hypothesis, common_ancestor
from w2s_chains.core.parts import Proposer
from w2s_chains.core.sampling import random_stream
from w2s_chains.engine.growth import Growth
from w2s_chains.engine.job import SearchHandle, check_abilities
from w2s_chains.engine.tree import Tree
from w2s_chains.errors import ConfigError, ProposerError, StrategyError, W2SError, ordinary, shown

logger = logging.getLogger(__name__)


class SearchState:
    """A search between two ticks: its pending ask, its children so far and its scores."""

    def __init__(self, running: SearchHandle) -> None:
        self.running = running
        self.job = running.job
        self.over = False
        self.away = False  # a part that waits for a server has it in hand
        self.apart = False  # its last call, which was for others too, has failed
        self.ask: Ask | None = None
        # Strategies may be third-party code: what one yields or returns is unchecked.
        self._search: Generator[object, Any, object] | None = None
        self._scores: WeakKeyDictionary[Hypothesis, float] = WeakKeyDictionary()
        self._committed = self.job.root
        self._streamed = 0  # characters
        self._answer: Hypothesis | None = None
        self._growths: list[Growth] = []
        self._rounds = 0
        self._round_of: WeakKeyDictionary[Hypothesis, int] = WeakKeyDictionary()
        self._steered = False
        self._progress = 0
        self._numbers = random_stream(self.job.seed, self.job.root.prompt)
        self._tree = Tree(self.job.root) if running.traced else None
        self._guided: dict[int, GuidedTokens] = {}
        try:
            self._search = self.job.strategy.search(self.job.root)
        except BaseException as error:
            self.fail(error)
        else:
            self.resume(None)

    def resume(self, answer: object) -> None:
        """Send an answer and run the strategy up to its next ask."""
        self.ask = None
        try:
            if not isinstance(self._search, Generator):
                raise StrategyError(
                    f"search() of strategy {self.job.strategy.type!r} is no generator; it must "
                    "yield what it asks for"
                )
            while True:
                ask: object = self._search.send(answer)
                if isinstance(ask, Expand | Expands | Score | TokenRatios):
                    break
                if isinstance(ask, Commit):
                    self._commit(ask.hypothesis)
                    answer = None
                elif isinstance(ask, RandomStream):
                    answer = self._numbers
                else:
                    raise StrategyError(
                        f"strategy {self.job.strategy.type!r} asked for {ask!r}; it may yield "
                        "Expand, Expands, Score, TokenRatios, Commit or RandomStream"
                    )
        except StopIteration as stop:
            self._finish(stop.value)
        except BaseException as error:
            self.fail(error)
        else:
            try:
                self._ask(ask)
            except Exception as error:
                self.fail(
                    StrategyError(
                        f"strategy {self.job.strategy.type!r} asked for {shown(ask)}, which cannot "
                        f"be answered: {error!r}"
                    )
                )

    def _ask(self, ask: Expand | Expands | Score | TokenRatios) -> None:
        self.ask = ask
        if isinstance(ask, Expand | Expands):
            asks = ask.asks if isinstance(ask, Expands) else (ask,)
            try:
                self._check_asks(asks)
            except W2SError as error:
                self.fail(error)
                return
            self._rounds += 1
            self._steered |= any(own.steering != 0 for own in asks)
            self._growths = [Growth(own, self.job) for own in asks]
        elif isinstance(ask, Score) and self.job.scorer is None:
            self.fail(ConfigError("the strategy asks for scores, but there is no scorer"))
        elif not self.unscored():
            self.take_scores([])

    def _check_asks(self, asks: Sequence[Expand]) -> None:
        """Refuse asks that no proposer could answer, or not this one."""
        if not asks:
            raise StrategyError("a strategy asked for no children at all; give Expands some asks")
        for ask in asks:
            if any(h.finished for h in ask.hypotheses) or not ask.hypotheses:
                raise StrategyError("a strategy may expand only hypotheses that can go on")
            if ask.successors < 1 or (ask.chunk_tokens is not None and ask.chunk_tokens < 1):
                raise StrategyError(
                    f"a strategy asked for {ask.successors} successors of {ask.chunk_tokens} "
                    "tokens; both must be at least 1"
                )
            if ask.first < 0:
                raise StrategyError(f"a strategy asked for children from number {ask.first} on")
            if ask.drafts and (
                not ask.steering or ask.chunk_tokens is None or ask.until or ask.distinct
            ):
                raise StrategyError(
                    "a strategy asked for drafts, which need steering and chunk_tokens, and go "
                    "neither with until nor with distinct"
                )
            if ask.by_guide and ask.steering:  # as drafts have, too
                raise StrategyError(
                    "a strategy asked for text of the tuned guide, which goes neither with "
                    "steering nor with drafts"
                )
            check_abilities(ask.needs, self.job)

    def fail(self, error: BaseException) -> None:
        self._end(Failed(error=ordinary(error)))

    def _end(self, event: Event) -> None:
        self.over = True
        self.ask = None
        self._report(self.job.sampling.max_tokens)
        try:
            if isinstance(self._search, Generator):
                self._search.close()
        except BaseException:
            kind = self.job.strategy.type
            logger.exception("the strategy %r raised while it was closed", kind)
        self.running.emit(event)

    # Children are sampled slice by slice.

    def requests(self) -> list[Expand]:
        """Return the requests for the next slices of the children."""
        cancelled = lambda: self.running.cancelled  # noqa: E731
        return [own.request(cancelled) for own in self._growths if not own.complete]

    def take_children(
        self, requests: Sequence[Expand], answers: Sequence[Sequence[Hypothesis]]
    ) -> None:
        """Take the answers to ``requests``; resume the strategy when all children are complete."""
        growing = [own for own in self._growths if not own.complete]
        try:
            for own, request, children in zip(growing, requests, answers, strict=True):
                own.take(request, children)
        except ProposerError as error:
            self.fail(error)
            return
        self._report(max(child.n_tokens for own in self._growths for child in own.children))
        if all(own.complete for own in self._growths):
            complete = [own.children for own in self._growths]
            several = isinstance(self.ask, Expands)
            del growing
            self._growths = []
            self._round_of.update(
                dict.fromkeys((child for own in complete for child in own), self._rounds)
            )
            if self._tree is not None:
                flat = [child for own in complete for child in own]
                self.running.emit(self._tree.grown(self._rounds, flat))
                del flat
            self.resume(complete if several else complete[0])

    def _report(self, tokens: int) -> None:
        """Report progress: the length of the longest partial answer."""
        if tokens > self._progress:
            self.running.emit(Progressed(tokens=tokens - self._progress))
            self._progress = tokens

    # Scores are cached, so a hypothesis that stays in the beam is scored once.

    def unscored(self) -> list[Hypothesis]:
        if isinstance(self.ask, TokenRatios):
            return list(self.ask.hypotheses)  # the guides keep them
        assert isinstance(self.ask, Score)
        return list(dict.fromkeys(h for h in self.ask.hypotheses if h not in self._scores))

    def look_at(self, scored: Sequence[Hypothesis]) -> None:
        """For a trace, ask the guides about the tokens of hypotheses that have just been scored."""
        if self._tree is not None and isinstance(self.ask, Score):
            for hypothesis, found in zip(scored, self.job.token_scores(scored), strict=False):
                self._guided[self._tree.id(hypothesis)] = self._tree.guided(hypothesis, found)

    def take_scores(self, scores: Sequence[Any]) -> None:
        """Take the scores of the hypotheses from ``unscored``; resume the strategy."""
        ask = self.ask
        if isinstance(ask, TokenRatios):
            self.resume(list(scores))
            return
        assert isinstance(ask, Score)
        self._scores.update(zip(self.unscored(), scores, strict=True))
        values = [self._scores[h] for h in ask.hypotheses]
        if self._answer is not None:
            self._finish(self._answer)
            return
        if self.running.scored:
            texts = tuple(h.response for h in ask.hypotheses)
            ids = () if self._tree is None else tuple(map(self._tree.id, ask.hypotheses))
            guided, self._guided = self._guided, {}
            self.running.emit(Scored(texts=texts, scores=tuple(values), ids=ids, tokens=guided))
        del ask  # it would keep hypotheses alive that the strategy is about to drop
        self.resume(values)

    # Text is streamed as it is committed.

    def _commit(self, hypothesis: Hypothesis) -> None:
        end = hypothesis.n_chars
        stop = self.job.sampling.stop
        if stop and not hypothesis.finished:
            longest = max(map(len, stop))
            end -= may_begin_stop(hypothesis.text_from(end - longest), stop)
        self._stream(hypothesis, end)

    def _stream(self, hypothesis: Hypothesis, end: int) -> None:
        """Stream the text of a hypothesis up to the character ``end``."""
        last = self._committed
        if hypothesis.origin is not last.origin or common_ancestor([hypothesis, last]) is not last:
            text = hypothesis.response[:end]
            streamed = last.response[: self._streamed]
            if len(text) < len(streamed) and streamed.startswith(text):
                return  # an earlier commit was longer
            if not text.startswith(streamed):
                raise StrategyError(
                    f"strategy {self.job.strategy.type!r} took back committed text: it committed "
                    f"{streamed!r} and then {text!r}; commit only what every later answer keeps"
                )
        self._committed = hypothesis
        if end > self._streamed:
            new = hypothesis.text_from(self._streamed)[: end - self._streamed]
            self._streamed = end
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
            streamed = self._committed.response[: self._streamed]
            if not text.startswith(streamed):
                raise StrategyError(
                    f"strategy {self.job.strategy.type!r} took back committed text: it committed "
                    f"{streamed!r} and returned {text!r}"
                )
            self._stream(answer, len(text))
            kl = self._kl(answer)
        except Exception as error:
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
                read_tokens=usage.read_tokens or None,
                rounds=self._rounds,
                proposed_tokens=usage.proposed_tokens,
                guide_tokens=usage.guide_tokens,
                guide_flops_ratio=usage.guide_flops_ratio(
                    Proposer.of(self.job.proposer).flops_per_token
                ),
                kl=kl,
                id=None if self._tree is None else self._tree.id(answer),
            )
        )

    def _kl(self, answer: Hypothesis) -> float | None:
        """Return the KL estimate; see ``Finished.kl``."""
        bound = self.job.strategy.kl_bound(self._round_of.get(answer, 0))
        if not self._steered or bound is None:
            return bound
        drift = answer.drift
        if self.job.sampling.filters or drift is None or not math.isfinite(drift):
            return None
        return bound + drift


def may_begin_stop(text: str, stop: Sequence[str]) -> int:
    """Return the length of the longest suffix of ``text`` that begins a stop string."""
    longest = max(map(len, stop), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(len(s) > size and s.startswith(text[-size:]) for s in stop):
            return size
    return 0
