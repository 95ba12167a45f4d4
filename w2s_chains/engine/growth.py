"""``Growth``, the children of one ``Expand`` while they are sampled slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer
from w2s_chains.engine.children import check_children
from w2s_chains.engine.job import Job


class Growth:
    """The children of one ask: between two slices, finished ones leave the batch.

    Attributes:
        ask: The ask.
        children: The children so far, in the order of the answer.
        complete: Whether all of them are as long as was asked, or finished.
    """

    def __init__(self, ask: Expand, job: Job) -> None:
        self.ask = ask
        self.children: list[Hypothesis] = []
        self.complete = False
        self._job = job
        self._proposer = Proposer.of(job.proposer)
        self._sampled = 0
        # A proposer that cannot number its children samples the earlier ones again.
        self._skipped = 0 if "first" in self._proposer.abilities else ask.first

    def request(self, cancelled: Callable[[], bool]) -> Expand:
        """Return the request for the next slice."""
        ask, job = self.ask, self._job
        longest = None if ask.until or ask.drafts else self._proposer.slice_tokens
        if ask.chunk_tokens is not None:
            left = ask.chunk_tokens - self._sampled
            longest = left if longest is None else min(longest, left)
        first = not self._sampled
        return replace(
            ask,
            hypotheses=ask.hypotheses if first else tuple(self._unfinished()),
            successors=ask.successors + self._skipped if first else 1,
            first=ask.first - self._skipped if first else 0,
            distinct=ask.distinct and first,
            chunk_tokens=longest,
            sampling=job.sampling,
            seed=job.seed,
            guides=job.guides if ask.steering or ask.by_guide else None,
            constraint=job.constraint,
            cancelled=cancelled,
        )

    def take(self, request: Expand, children: Sequence[Hypothesis]) -> None:
        """Take the answer to ``request``.

        Raises:
            ProposerError: It is no answer (``check_children``).
        """
        check_children(request, children, type(self._job.proposer).__name__)
        if self._sampled:
            longer = iter(children)
            self.children = [c if c.finished else next(longer) for c in self.children]
        else:
            each = request.successors
            self.children = [c for i, c in enumerate(children) if i % each >= self._skipped]
        self._sampled += request.chunk_tokens or 1  # now they go on from here
        shorter = self.ask.until is not None or self.ask.drafts
        whole = shorter or self._sampled == self.ask.chunk_tokens
        self.complete = whole or not self._unfinished()

    def _unfinished(self) -> list[Hypothesis]:
        return [child for child in self.children if not child.finished]
