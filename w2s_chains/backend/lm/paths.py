"""``Paths``: one model's segment for each hypothesis, read when it is first needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.kv import Segment
from w2s_chains.backend.lm.reading import Reading, read
from w2s_chains.backend.text.tokenizer import Tokenizer, common_prefix
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import PromptError, ScorerError


class Paths:
    """One model's segments, by hypothesis; a segment is dropped together with its hypothesis.

    If a hypothesis has token ids of this model's vocabulary, those ids are read; otherwise its
    text is tokenised together with the prompt. Either way only the tokens after the longest prefix
    shared with the nearest ancestor that was read already are read.
    """

    def __init__(self, lm: CausalLM, tokenizer: Tokenizer) -> None:
        self.lm = lm
        self.tokenizer = tokenizer
        self._segments: WeakKeyDictionary[Hypothesis, Segment] = WeakKeyDictionary()
        self._end_logprobs: WeakKeyDictionary[Hypothesis, float] = WeakKeyDictionary()

    def __contains__(self, hypothesis: Hypothesis) -> bool:
        return hypothesis in self._segments

    def __getitem__(self, hypothesis: Hypothesis) -> Segment:
        return self._segments[hypothesis]

    def keep(self, hypothesis: Hypothesis, segment: Segment, end_logprob: float = 0.0) -> None:
        """Store a segment that was read while a chunk was sampled."""
        self._segments[hypothesis] = segment
        self._end_logprobs[hypothesis] = end_logprob

    def read(
        self, hypotheses: Sequence[Hypothesis], *, scored: bool
    ) -> list[tuple[Hypothesis, int]]:
        """Read what has not been read yet: ``read_together`` for these paths alone."""
        return read_together([self], hypotheses, scored=scored)

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
        return {h: self._reading(h, scored) for h in missing}

    def _reading(self, hypothesis: Hypothesis, scored: bool) -> Reading:
        known = next(h for h in hypothesis.ancestors() if h in self._segments)
        parent = self._segments[known]
        ids = self._ids(hypothesis)
        limit = self.lm.max_positions
        if limit is not None and len(ids) > limit:
            raise PromptError(
                f"prompt and answer have {len(ids)} tokens for the model "
                f"{self.tokenizer.name!r}, which has {limit} positions; shorten the "
                "prompt or lower max_tokens"
            )
        self.lm.check_border(len(self.tokenizer.prompt_ids(hypothesis.prompt)), len(ids))
        shared = common_prefix(parent.path_ids(), ids)
        segment = Segment(parent if shared else None, shared, self._known(ids[shared:]))
        end_id = self.tokenizer.end_id if hypothesis.ended else None
        return Reading(segment=segment, scored=scored, end_id=end_id, adapter=self.lm.adapter)

    def _known(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens; raise PromptError if the model has no embedding for one of them."""
        if (largest := max(ids, default=0)) >= self.lm.rows:
            raise PromptError(
                f"the text has the token {largest}, but the model {self.tokenizer.name!r} knows "
                f"only {self.lm.rows}; use the tokenizer that the model was trained with, or leave "
                "the tokens out that were added to it"
            )
        return ids

    def _ids(self, hypothesis: Hypothesis) -> tuple[int, ...]:
        """Return all tokens of prompt and response in this model's vocabulary."""
        ids = (
            hypothesis.response_ids if hypothesis.vocabulary == self.tokenizer.vocabulary else None
        )
        if ids is None:
            return self.tokenizer.ids_with_response(hypothesis.prompt, hypothesis.response)
        return (*self.tokenizer.prompt_ids(hypothesis.prompt), *ids)

    def loglikelihood(self, hypothesis: Hypothesis) -> float:
        """Return log p(response | prompt) of a hypothesis that was read with scores, in nats.

        It covers the tokens after the longest prefix that prompt and prompt + response share, and
        the end token if the model ended its turn. It is -inf if the model excludes a token.

        Raises:
            ScorerError: The model gave logits that are NaN or infinite.
        """
        segment = self._segments[hypothesis]
        first = self._first_scored(hypothesis)
        value = segment.loglikelihood(first) + self._end_logprobs.get(hypothesis, 0.0)
        if math.isnan(value):
            raise ScorerError(self.lm.no_numbers)
        return value

    def loglikelihood_per_token(self, hypothesis: Hypothesis) -> float:
        """Return ``loglikelihood`` divided by the number of scored tokens; 0 if there are none."""
        count = self._segments[hypothesis].end - self._first_scored(hypothesis) + hypothesis.ended
        return self.loglikelihood(hypothesis) / count if count else 0.0

    def _first_scored(self, hypothesis: Hypothesis) -> int:
        path = self._segments[hypothesis].path_ids()
        return common_prefix(self.tokenizer.prompt_ids(hypothesis.prompt), path)


def read_together(
    many: Sequence[Paths], hypotheses: Sequence[Hypothesis], *, scored: bool
) -> list[tuple[Hypothesis, int]]:
    """Read what has not been read yet: first the prompts, each of them once, then the answers.

    Args:
        many: The paths that read; paths of one model share its forward passes.
        hypotheses: Any number, in any order.
        scored: Whether log-probabilities are wanted.

    Returns:
        Each hypothesis that was read, and the number of tokens read for it.

    Raises:
        PromptError: A text is longer than a model's context, or has no tokens at all.
        OutOfMemoryError: One text alone does not fit into memory.
    """
    models: dict[int, list[Paths]] = {}
    for paths in many:
        models.setdefault(id(paths.lm.model), []).append(paths)
    counts: list[tuple[Hypothesis, int]] = []
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
            read(readers[0].lm, [reading for _, _, reading in wanted])
            for paths, h, reading in wanted:
                paths.keep(h, reading.segment, reading.end_logprob)
                counts.append((h, reading.count))
    return counts
