"""``Paths``: one model's segment for each hypothesis, read when it is first needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.reading import Reading, read
from w2s_chains.backend.text.incremental import Place, common_prefix
from w2s_chains.backend.text.pieces import pieces
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import PromptError, ScorerError


@dataclass(frozen=True, slots=True)
class RowsRead:
    """What a model has read for one hypothesis: rows, each of them one token at one position.

    The token before several siblings is read once for all of them, and counts for the first.
    """

    hypothesis: Hypothesis
    number: int
    flops_per_token: float


class Paths:
    """One model's segments, by hypothesis; a segment is dropped together with its hypothesis.

    If a hypothesis has token ids of this model's vocabulary, those ids are read; otherwise its
    text is tokenised together with the prompt, again only from the place on that later text cannot
    move. Either way only the tokens after the longest prefix shared with the nearest ancestor that
    was read already are read.
    """

    def __init__(self, lm: CausalLM, tokenizer: Tokenizer) -> None:
        self.lm = lm
        self.tokenizer = tokenizer
        self._segments: WeakKeyDictionary[Hypothesis, Segment] = WeakKeyDictionary()
        self._end_logprobs: WeakKeyDictionary[Hypothesis, float] = WeakKeyDictionary()
        # Read by token ids, all the way from the root.
        self._by_ids: WeakSet[Hypothesis] = WeakSet()
        # Of texts that were tokenised here: where tokenising goes on.
        self._places: WeakKeyDictionary[Hypothesis, Place] = WeakKeyDictionary()
        self._summed: WeakKeyDictionary[Segment, _Sums] = WeakKeyDictionary()

    def __contains__(self, hypothesis: Hypothesis) -> bool:
        return hypothesis in self._segments

    def __getitem__(self, hypothesis: Hypothesis) -> Segment:
        return self._segments[hypothesis]

    def keep(self, hypothesis: Hypothesis, segment: Segment, end_logprob: float = 0.0) -> None:
        """Store a segment that was read while a chunk was sampled."""
        self._segments[hypothesis] = segment
        self._end_logprobs[hypothesis] = end_logprob
        if hypothesis.parent is None or (
            hypothesis.parent in self._by_ids and self._own(hypothesis)
        ):
            self._by_ids.add(hypothesis)

    def read(self, hypotheses: Sequence[Hypothesis], *, scored: bool) -> list[RowsRead]:
        """Read what has not been read yet: ``read_together`` for these paths alone."""
        return read_together([self], hypotheses, scored=scored)

    @functools.cached_property
    def flops_per_token(self) -> float:
        """Estimated FLOPs to read one token: 2 per parameter (Kaplan et al., 2020, Section 2.1).

        Parameters that are looked up are left out; the matrix that makes the logits counts once,
        even if it is also the embedding table. Attention to earlier tokens is left out as well, and
        of a mixture all experts count.
        """
        model: Any = self.lm.model
        count = model.num_parameters(exclude_embeddings=True)
        head = model.get_output_embeddings()
        if head is not None and head.weight is model.get_input_embeddings().weight:
            count += head.weight.numel()
        return 2.0 * count

    def unread_prompts(self, hypotheses: Sequence[Hypothesis]) -> dict[Hypothesis, Reading]:
        """Return the readings of prompts, which come before those of answers."""
        roots = dict.fromkeys(h.origin for h in hypotheses if h not in self._segments)
        return {
            root: Reading(
                segment=Segment(None, 0, self._known(self.tokenizer.prompt_ids(root.prompt))),
                scored=False,
                adapter=self.lm.adapter,
            )
            for root in roots
            if root not in self._segments
        }

    def unread_answers(
        self, hypotheses: Sequence[Hypothesis], scored: bool
    ) -> dict[Hypothesis, Reading]:
        """Return the readings of answers; their prompts must have been read."""
        missing = dict.fromkeys(h for h in hypotheses if h not in self._segments)
        known = {h: next(a for a in h.ancestors() if a in self._segments) for h in missing}
        by_ids = {h: self._ids_after(known[h], h) for h in missing}
        by_text = [(h, self._place(known[h])) for h in missing if by_ids[h] is None]
        new: dict[Hypothesis, tuple[int, tuple[int, ...]]] = {}
        for h, ids in by_ids.items():
            if ids is not None:
                new[h] = self._segments[known[h]].end, ids
                self._by_ids.add(h)
        for (h, place), (ids, own) in zip(by_text, self.tokenizer.ids_after(by_text), strict=True):
            shared = common_prefix(self._segments[known[h]].path_ids(place.tokens), ids)
            new[h] = place.tokens + shared, ids[shared:]
            self._places[h] = own
        return {h: self._reading(h, self._segments[known[h]], *new[h], scored) for h in missing}

    def _place(self, known: Hypothesis) -> Place:
        """Return a place before which the path of ``known`` has the tokens of its text."""
        return self._places.get(known) or self.tokenizer.place(known.prompt)

    def _reading(
        self,
        hypothesis: Hypothesis,
        parent: Segment,
        start: int,
        ids: tuple[int, ...],
        scored: bool,
    ) -> Reading:
        length, limit = start + len(ids), self.lm.max_positions
        if limit is not None and length > limit:
            raise PromptError(
                f"prompt and answer have {length} tokens for the model "
                f"{self.tokenizer.name!r}, which has {limit} positions; shorten the "
                "prompt or lower max_tokens"
            )
        self.lm.check_border(len(self.tokenizer.prompt_ids(hypothesis.prompt)), length)
        segment = Segment(parent if start else None, start, self._known(ids))
        end_id = self.tokenizer.end_id if hypothesis.ended else None
        return Reading(segment=segment, scored=scored, end_id=end_id, adapter=self.lm.adapter)

    def _ids_after(self, known: Hypothesis, hypothesis: Hypothesis) -> tuple[int, ...] | None:
        """Return the tokens that follow ``known``; None if some are not of this vocabulary."""
        runs: list[tuple[int, ...]] = []
        for node in hypothesis.ancestors():
            if node is known:
                break
            if not self._own(node):
                return None
            runs.append(node.token_ids or ())
        if known not in self._by_ids:
            return None
        return tuple(token for run in reversed(runs) for token in run)

    def _own(self, hypothesis: Hypothesis) -> bool:
        """Return whether a chunk has token ids of this model's vocabulary."""
        ids, vocabulary = hypothesis.token_ids, hypothesis.vocabulary
        return ids is not None and vocabulary == self.tokenizer.vocabulary

    def _known(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens; raise PromptError if the model has no embedding for one of them."""
        if (largest := max(ids, default=0)) >= self.lm.rows:
            raise PromptError(
                f"the text has the token {largest}, but the model {self.tokenizer.name!r} knows "
                f"only {self.lm.rows}; use the tokenizer that the model was trained with, or leave "
                "the tokens out that were added to it"
            )
        return ids

    def loglikelihood(self, hypothesis: Hypothesis) -> float:
        """Return log p(response | prompt) of a hypothesis that was read with scores, in nats.

        It covers the tokens after the longest prefix that prompt and prompt + response share, and
        the end token if the model ended its turn. It is -inf if the model excludes a token.

        Raises:
            ScorerError: The model gave logits that are NaN or infinite.
        """
        value = self._sums(hypothesis).total + self._end_logprobs[hypothesis]
        if math.isnan(value):
            raise ScorerError(self.lm.no_numbers)
        return value

    def logprobs(self, hypothesis: Hypothesis) -> tuple[list[int], list[float]]:
        """Return the tokens that ``loglikelihood`` covers, and log p of each, in nats.

        The log-probability of the end token has no id: the model may end its turn with any of some.

        Raises:
            ScorerError: The model gave logits that are NaN or infinite.
        """
        self.loglikelihood(hypothesis)
        first = self._sums(hypothesis).first
        runs: list[tuple[list[int], list[float]]] = []
        for segment, end in self._segments[hypothesis].path():
            begin = max(first - segment.start, 0)
            own = segment.logprobs or [0.0] * len(segment.ids)
            part = slice(begin, end - segment.start)
            runs.append((list(segment.ids[part]), list(own[part])))
            if segment.start <= first:
                break
        ids = [token for own, _ in reversed(runs) for token in own]
        values = [value for _, own in reversed(runs) for value in own]
        ended = [self._end_logprobs[hypothesis]] if hypothesis.ended else []
        return ids, values + ended

    def texts(self, hypothesis: Hypothesis, ids: Sequence[int]) -> list[str]:
        """Return the piece of the answer that each of the tokens ``logprobs`` returned adds."""
        before = self._segments[hypothesis].end - len(ids)
        prompt = self.tokenizer.prompt_ids(hypothesis.prompt)[:before]
        return pieces(self.tokenizer, prompt, ids, hypothesis, sampled=hypothesis in self._by_ids)

    def loglikelihood_per_token(self, hypothesis: Hypothesis) -> float:
        """Return ``loglikelihood`` divided by the number of scored tokens; 0 if there are none."""
        first = self._sums(hypothesis).first
        count = self._segments[hypothesis].end - first + hypothesis.ended
        return self.loglikelihood(hypothesis) / count if count else 0.0

    def _sums(self, hypothesis: Hypothesis) -> _Sums:
        """Return the sums of a hypothesis' segment; those above it are summed once."""
        segment = self._segments[hypothesis]
        unsummed: list[Segment] = []
        node: Segment | None = segment
        while node is not None and node not in self._summed:
            unsummed.append(node)
            node = node.parent
        if unsummed:
            prompt = self.tokenizer.prompt_ids(hypothesis.prompt)
            for node in reversed(unsummed):
                self._summed[node] = _sum(node, prompt, self._summed)
        return self._summed[segment]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of a segment's log-probabilities with all before them, from left to right.

    Attributes:
        first: The first position that counts: the texts of prompt and path differ there.
        running: Sum over the positions from ``first`` to each of the segment's tokens.
        total: The last of them.
    """

    first: int
    running: tuple[float, ...]
    total: float


def _sum(segment: Segment, prompt: Sequence[int], summed: Mapping[Segment, _Sums]) -> _Sums:
    """Sum up a segment, whose parents are in ``summed``."""
    start, parent = segment.start, segment.parent
    above = None if parent is None else summed[parent]
    # Does the path differ from the prompt, or go on after it, above this segment already?
    if above is not None and (above.first < start or above.first == start == len(prompt)):
        first = above.first
    else:
        first = common_prefix(prompt, segment.path_ids())
    total = 0.0
    if first < start:
        while parent is not None and start <= parent.start:
            parent = parent.parent
        assert parent is not None, "what lies before a segment belongs to its parents"
        total = summed[parent].running[start - parent.start - 1]
    running: list[float] = []
    for position, value in enumerate(segment.logprobs or [0.0] * len(segment.ids), start):
        total += value if position >= first else 0.0
        running.append(total)
    return _Sums(first, tuple(running), total)


def read_together(
    many: Sequence[Paths], hypotheses: Sequence[Hypothesis], *, scored: bool
) -> list[RowsRead]:
    """Read what has not been read yet: first the prompts, each of them once, then the answers.

    Args:
        many: The paths that read; those of views of one model share its forward passes.
        hypotheses: Any number, in any order.
        scored: Whether log-probabilities are wanted.

    Returns:
        What each model has read, in order. Batches, their padding and a second reading in
        another row of what siblings share do not count.

    Raises:
        PromptError: A text is longer than a model's context, or has no tokens at all.
        OutOfMemoryError: One text alone does not fit into memory.
    """
    models: dict[int, list[Paths]] = {}
    for paths in many:
        # Not by its weights: what one wrapper of a model has read, another cannot find.
        models.setdefault(id(paths.lm.memory), []).append(paths)
    rows: list[RowsRead] = []
    for readers in models.values():
        for prompts in (True, False):
            wanted = [
                (paths, h, reading)
                for paths in dict.fromkeys(readers)
                for h, reading in (
                    paths.unread_prompts(hypotheses)
                    if prompts
                    else paths.unread_answers(hypotheses, scored)
                ).items()
            ]
            # Siblings of one text are read once, so that not even rounding tells them apart.
            first: dict[Hashable, Reading] = {}
            for _, _, reading in wanted:
                first.setdefault(reading.identity, reading)
            read(readers[0].lm, list(first.values()))
            begun: set[tuple[int, int]] = set()
            for paths, h, reading in wanted:
                own = first[reading.identity]
                count = own.count if own is reading else 0
                if count:
                    count -= own.family in begun
                    begun.add(own.family)
                rows.append(RowsRead(h, count, paths.flops_per_token))
                paths.keep(h, own.segment, own.end_logprob)
    return rows
