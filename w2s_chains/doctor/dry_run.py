"""``dry_run``: what a strategy asks for, found out by running it without a model."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

from w2s_chains.core.asks import Commit, Expand, Score
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.doctor.diagnosis import Effort
from w2s_chains.errors import W2SError
from w2s_chains.search import SearchStrategy
from w2s_chains.testing import Trace, drive

_TOKENS = 256
"""Most tokens of the answer of a dry run."""
_CHILDREN = 50_000
"""Most partial answers of a dry run, which takes a second."""
_TYPICAL = 16
"""Tokens of a chunk whose end only a model knows."""


class _TooManyError(Exception):
    """The strategy samples more than a dry run should."""


def dry_run(strategy: SearchStrategy, max_tokens: int, n: int) -> tuple[Effort, list[Expand]]:
    """Run a strategy whose proposer writes one word after another, and never ends by itself.

    Scores are a random walk along each text, as log-ratios are. All children have their full
    length: where a model would end a chunk early, numbers are rough.

    Args:
        strategy: The strategy.
        max_tokens: The most tokens of an answer; the dry run has fewer if that is much.
        n: Answers per prompt, each of a search of its own.

    Returns:
        What it costs, and its first ask of each kind.

    Raises:
        W2SError: The strategy samples too much to be tried, or breaks its contract.
    """
    tokens = min(max_tokens, _TOKENS)
    proposer = _Words(tokens)
    walk = _Walk()
    try:
        trace = drive(strategy, proposer.propose, walk.value, ratios=walk.ratios)
    except _TooManyError as error:
        raise W2SError(
            f"strategy {strategy.type!r} was not tried out, since an answer of {tokens} tokens "
            f"takes more than {_CHILDREN:,} partial answers"
        ) from error
    except Exception as error:  # a strategy may be code of another package
        raise W2SError(f"strategy {strategy.type!r} failed in a dry run: {error!r}") from error
    length = max(trace.answer.n_tokens, 1)
    first, lag = _streaming(trace, length)
    scale = max_tokens / length
    effort = Effort(
        strategy=strategy.model_dump(mode="json"),
        branches=strategy.branches,
        n=n,
        tokens=length,
        rounds=proposer.rounds,
        rows_per_token=proposer.rows / length,
        guided_per_token=walk.read / length,
        first_text=first,
        lag=lag,
        rough=any(ask.until or ask.drafts or ask.by_guide for ask in trace.expansions),
        kept=round(proposer.kept * scale) * n,
        rows=proposer.most_rows * n,
    )
    kinds: dict[object, Expand] = {}
    for ask in trace.expansions:
        at_root = all(h.parent is None for h in ask.hypotheses)
        if ask.may_be_whole and not at_root:
            continue  # a proposer of whole answers is never asked this
        kinds.setdefault((at_root, ask.chunk_tokens is None, ask.distinct, ask.may_be_whole), ask)
    return effort, list(kinds.values())


class _Words:
    """A proposer of words, each of which is another one."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._words = itertools.count()
        self._children = 0
        self.rounds = self.rows = self.kept = self.most_rows = 0

    def propose(self, ask: Expand) -> Sequence[Hypothesis]:
        self.rounds += 1
        self._children += len(ask.hypotheses) * ask.successors
        if self._children > _CHILDREN:
            raise _TooManyError
        children = [
            self._child(h, ask) for h in ask.hypotheses for _ in range(ask.successors)
        ]  # fmt: skip
        if not ask.by_guide:
            grown = [c.n_tokens - c.parent.n_tokens for c in children if c.parent is not None]
            self.rows += len(dict.fromkeys(ask.hypotheses)) + sum(grown) - len(grown)
        nodes = {node for h in ask.hypotheses for node in h.ancestors()} | set(children)
        kept = sum(node.n_tokens - (node.parent.n_tokens if node.parent else 0) for node in nodes)
        self.kept = max(self.kept, kept)
        self.most_rows = max(self.most_rows, len(children))
        return children

    def _child(self, h: Hypothesis, ask: Expand) -> Hypothesis:
        left = self._tokens - h.n_tokens
        chunk = left if ask.chunk_tokens is None else ask.chunk_tokens
        if ask.until is not None:
            chunk = min(chunk, _TYPICAL)
        count = min(chunk, left)
        number = next(self._words)
        return h.extend(
            f" {number}" * count,
            tuple([number] * count),
            finish_reason="length" if count == left else None,
            logprobs=(-1.0,) * count,
            entropies=(1.0,) * count,
        )


class _Walk:
    """Scores that begin at 0 and take a random step with every token."""

    def __init__(self) -> None:
        self._at: dict[Hypothesis, float] = {}
        self._numbers = random.Random(0)
        self.read = 0

    def value(self, hypothesis: Hypothesis) -> float:
        for node in reversed(list(_unknown(hypothesis, self._at))):
            before = 0 if node.parent is None else node.parent.n_tokens
            count = node.n_tokens - before
            self.read += count
            past = 0.0 if node.parent is None else self._at[node.parent]
            self._at[node] = past + self._numbers.gauss(0.0, max(count, 1) ** 0.5)
        return self._at[hypothesis]

    def ratios(self, hypothesis: Hypothesis) -> Sequence[float]:
        return [self.value(hypothesis) / max(hypothesis.n_tokens, 1)] * hypothesis.n_tokens


def _unknown(hypothesis: Hypothesis, known: dict[Hypothesis, float]) -> Iterable[Hypothesis]:
    return itertools.takewhile(lambda node: node not in known, hypothesis.ancestors())


def _streaming(trace: Trace, length: int) -> tuple[int, int]:
    """Return after how many tokens the first text is final, and by how many it falls behind."""
    grown = committed = lag = 0
    first = length
    for ask in trace.asks:
        if isinstance(ask, Score):
            grown = max(grown, *(h.n_tokens for h in ask.hypotheses))
            lag = max(lag, grown - committed)
        elif isinstance(ask, Commit) and ask.hypothesis.n_tokens > committed:
            committed = ask.hypothesis.n_tokens
            first = min(first, max(grown, committed))
    return first, max(lag, first if committed else length)
