"""``GuideWriter``: the tuned guide, which writes chunks in the proposer's place."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from w2s_chains.backend.loading.local_model import LocalModel
from w2s_chains.backend.sampling.chunks import Drawn, sample
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.text.generation import warn_of_ignored
from w2s_chains.backend.text.stop_strings import cut_at_stop, end_of_chunk
from w2s_chains.core.asks import Expand
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import fork
from w2s_chains.errors import ConfigError, PromptError

_CONTEXT = 16
"""Tokens before a chunk that its decoding may look at."""

salt_of = functools.lru_cache(maxsize=1024)(fork)
"""Combine seed and prompt into one number; cached, since every row of every chunk needs it."""


@dataclass(frozen=True, slots=True)
class GuideWriter:
    """The tuned guide as a writer: it reads the answer so far in its own way, and goes on.

    Its noise differs from the proposer's at the same place: what it samples beyond the end of a
    word decides where the word ends, and must not decide how the proposer goes on.

    Attributes:
        guide: The tuned guide.
        same: Whether it has the proposer's vocabulary, so that its token ids can stay.
    """

    guide: LocalModel
    same: bool

    def write(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        """Return the children of each request; what the guide reads is counted as such.

        Raises:
            PromptError: A text is longer than the guide's context.
            OutOfMemoryError: Even a single row does not fit in memory.
        """
        guide = self.guide
        hypotheses = [h for request in requests for h in request.hypotheses]
        for read in guide.paths.read(hypotheses, scored=True):
            read.hypothesis.usage.add_guide(read.number, read.flops_per_token)
        rows = [
            (request, h, stream)
            for request in requests
            for h in request.hypotheses
            for stream in request.streams(h)
        ]
        drawn = sample([guide.lm], [self._draw(*row) for row in rows], guide.tokenizer.end_ids)
        for request in requests:
            for h in dict.fromkeys(request.hypotheses):
                h.usage.add_guide(1, guide.flops_per_token)
        for (_, h, _), one in zip(rows, drawn, strict=True):
            h.usage.add_guide(one.sampled - 1, guide.flops_per_token)
        children = (self._child(*row, one) for row, one in zip(rows, drawn, strict=True))
        return [
            [next(children) for _ in r.hypotheses for _ in range(r.successors)] for r in requests
        ]

    def _draw(self, request: Expand, h: Hypothesis, stream: int) -> Draw:
        guide, until = self.guide, request.until
        steps = most_tokens(request, h)
        check_room(guide, h, steps)
        return Draw(
            parents=(guide.paths[h],),
            steps=steps,
            sampling=request.sampling,
            place=(salt_of(request.seed, *guide.tokenizer.prompt_ids(h.prompt)), stream, "guide"),
            n_tokens=h.n_tokens,
            known=guide.tokenizer.size,
            suppressed=guide.tokenizer.suppressed.ids,
            suppressed_first=guide.tokenizer.suppressed.first,
            until=until,
            end_of=functools.partial(
                end_of_chunk, until, guide.tokenizer, self._context(h), self._pending(h)
            )
            if until is not None and until.by_text
            else None,
        )

    def _child(self, request: Expand, parent: Hypothesis, stream: int, drawn: Drawn) -> Hypothesis:
        if not drawn.ids and not drawn.ended:
            return parent  # ``Until.least`` allows that nothing follows
        guide, sampling = self.guide, request.sampling
        text, pending = guide.tokenizer.decode_after(
            self._context(parent), self._pending(parent), drawn.ids
        )
        full = parent.n_tokens + len(drawn.ids) >= sampling.max_tokens
        if not (self.same or drawn.ended or full):
            # The beginning of a character is no text, and must not be gone on from.
            drawn = drawn.cut(len(drawn.ids) - len(pending))
        ids = drawn.ids
        kept = ids if self.same else None
        # Its vocabulary is the proposer's where token ids are looked at.
        if stopped := cut_at_stop(
            sampling.stop, guide.tokenizer, parent, text, kept, n_tokens=len(ids)
        ):
            return stopped
        child = parent.extend(
            text,
            kept,
            pending=pending if self.same else (),
            finish_reason="eos" if drawn.ended else "length" if full else None,
            vocabulary=guide.tokenizer.vocabulary if self.same else None,
            stream=stream,
            n_tokens=max(len(ids), not drawn.ended),
        )
        if self.same:
            [segment] = drawn.segments
            if child.finished:
                segment.kv = None  # nothing follows it
            guide.paths.keep(child, segment, drawn.end_logprob or 0.0)
        # Else the text is read again: its own tokens may differ from those that were sampled, and
        # only they can be compared with another model's.
        return child

    def _pending(self, h: Hypothesis) -> tuple[int, ...]:
        return h.pending if self.same else ()

    def _context(self, h: Hypothesis) -> list[int]:
        segment = self.guide.paths[h]
        ids = segment.path_ids(max(segment.end - _CONTEXT, 0))
        return ids[: len(ids) - len(self._pending(h))]


def most_tokens(request: Expand, hypothesis: Hypothesis) -> int:
    """Return how many tokens a child may have."""
    left = request.sampling.max_tokens - hypothesis.n_tokens
    return left if request.chunk_tokens is None else min(request.chunk_tokens, left)


def check_room(model: LocalModel, hypothesis: Hypothesis, tokens: int) -> None:
    """Check that a model that has read a hypothesis can read so many tokens more.

    ``max_tokens`` counts what was written, and another model's text may have more tokens here.

    Raises:
        PromptError: Its context is shorter.
    """
    length, limit = model.paths[hypothesis].end + tokens, model.max_positions
    if limit is not None and length > limit:
        raise PromptError(
            f"prompt and answer may have {length} tokens for the model "
            f"{model.tokenizer.name!r}, which has {limit} positions; shorten the prompt or lower "
            "max_tokens"
        )


def require_writer(guides: BaseGuidePair | None, vocabulary: str) -> GuideWriter:
    """Return the tuned guide of a pair as a writer.

    Args:
        guides: A pair of guides, or None.
        vocabulary: Fingerprint of the proposer's vocabulary.

    Raises:
        ConfigError: There are no guides, or they are not local models.
    """
    both = None if guides is None else BaseGuidePair.of(guides).local_models()
    if both is None:
        raise ConfigError(
            "the tuned guide can write only as a local model; pass a GuidePair of two local models "
            "as guides=..., or use another strategy"
        )
    tuned: LocalModel = both[0]
    warn_of_ignored(tuned.lm.name, tuned.lm.model)
    return GuideWriter(tuned, tuned.tokenizer.vocabulary == vocabulary)
