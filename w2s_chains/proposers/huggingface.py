"""``HuggingFaceProposer``: a Hugging Face model in this process as the proposer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.local_model import LocalModel
from w2s_chains.backend.sampling.chunks import Drawn, sample
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.speculative import speculate
from w2s_chains.backend.text.generation import warn_of_ignored
from w2s_chains.backend.text.stop_strings import cut_at_stop, end_of_chunk
from w2s_chains.backend.text.tokenizer import Tokenizer, warn_of_raw_prompts
from w2s_chains.core.asks import Expand
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer
from w2s_chains.core.prompts import Prompt, ThoughtFormat
from w2s_chains.core.sampling import Constraint, SamplingParams
from w2s_chains.errors import UnsupportedModelError
from w2s_chains.proposers.guide_writing import (
    check_room,
    most_tokens,
    require_writer,
    salt_of,
)
from w2s_chains.proposers.steering import SteeringPair, require_steering

if TYPE_CHECKING:
    from w2s_chains.backend.constrained.grammar import Grammars, GrammarState


class HuggingFaceProposer(LocalModel, Proposer):
    """Continue hypotheses with any ``AutoModelForCausalLM``.

    The prompt and every accepted token are read once, however many hypotheses share them.
    """

    abilities = frozenset({"first", "distinct", "until", "drafts", "by_guide"})

    def _adopt(self, lm: CausalLM, tokenizer: Tokenizer, spec: Model | None) -> None:
        super()._adopt(lm, tokenizer, spec)
        if tokenizer.chat is not None:
            self.call_format = tokenizer.chat.call_format
        if spec is not None:
            warn_of_raw_prompts(tokenizer, spec.model_fields_set)
        warn_of_ignored(lm.name, lm.model)

    # Repeated here since key_of and config_of do not accept inherited ones.
    to_config = LocalModel.to_config
    cache_key = LocalModel.cache_key

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if prompt and answer do not fit in the model's context."""
        self._check_length(prompt, sampling.max_tokens, "proposer")

    def thoughts(self, prompt: Prompt) -> ThoughtFormat | None:
        """Return how the chat template writes thoughts; None if it has none, or is not known."""
        return self.tokenizer.thoughts(prompt)

    def check_steering(self, guides: BaseGuidePair | None) -> None:
        """Raise ConfigError unless ``guides`` are local models with this vocabulary."""
        require_steering(guides, self.tokenizer.vocabulary)

    def check_writer(self, guides: BaseGuidePair | None) -> None:
        """Raise ConfigError unless the guides are local models."""
        require_writer(guides, self.tokenizer.vocabulary)

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        """Raise ConstraintError if ``constraint`` cannot be met within ``max_tokens``."""
        self._grammars.compile(constraint).check(sampling.max_tokens)

    @functools.cached_property
    def _grammars(self) -> Grammars:
        try:
            from w2s_chains.backend.constrained.grammar import Grammars
        except ModuleNotFoundError as error:
            raise UnsupportedModelError(
                "tools and structured output need llguidance; run: pip install llguidance"
            ) from error
        return Grammars(self.tokenizer)

    @functools.cached_property
    def _states(self) -> WeakKeyDictionary[Hypothesis, GrammarState]:
        """The grammar states of hypotheses whose search has a constraint."""
        return WeakKeyDictionary()

    def _state(self, h: Hypothesis, constraint: Constraint | None) -> GrammarState | None:
        if constraint is None:
            return None
        return self._grammars.compile(constraint).start if h.parent is None else self._states[h]

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        """Continue hypotheses; requests with the same steering pair, or with none, run together.

        Those with drafts are a group of their own, and so are those that the tuned guide writes.

        Raises:
            ConfigError: A request asks for steering by guides that cannot steer, or for the text of
                a guide that cannot write.
            OutOfMemoryError: Even a single row does not fit in memory.
        """
        results: list[list[Hypothesis]] = [[] for _ in requests]
        groups: dict[tuple[int | None, bool, bool], list[int]] = {}
        for i, request in enumerate(requests):
            guides = id(request.guides) if request.steering or request.by_guide else None
            groups.setdefault((guides, request.drafts, request.by_guide), []).append(i)
        for indices in groups.values():
            own = [requests[i] for i in indices]
            if own[0].by_guide:
                children = require_writer(own[0].guides, self.tokenizer.vocabulary).write(own)
            else:
                children = self._propose(own)
            for i, own in zip(indices, children, strict=True):
                results[i] = own
        return results

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return log p(response | prompt) of each hypothesis under the model itself, in nats.

        This is the loglikelihood at temperature 1, without filters, penalties or steering, however
        the hypothesis was sampled. It is summed like a guide's loglikelihood. Tokens that this
        proposer has sampled are not read again.

        Raises:
            PromptError: A text is longer than the model's context.
        """
        self._read(hypotheses)
        return [self.paths.loglikelihood(h) for h in hypotheses]

    def _read(self, hypotheses: Sequence[Hypothesis]) -> None:
        """Read what was not read yet: prompts, and texts that are not this proposer's own."""
        for read in self.paths.read(hypotheses, scored=True):
            usage = read.hypothesis.usage
            if read.hypothesis.parent is None:
                usage.prompt_tokens += read.number + 1
            else:
                usage.read_tokens += read.number

    def _propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        pair: SteeringPair | None = None
        hypotheses = [h for request in requests for h in request.hypotheses]
        if requests[0].steering:
            pair = require_steering(requests[0].guides, self.tokenizer.vocabulary)
            pair.read(hypotheses)
        self._read(hypotheses)
        rows = [
            (request, h, i, stream)
            for request in requests
            for h in request.hypotheses
            for i, stream in enumerate(request.streams(h), request.first)
        ]
        draws = [self._draw(*row, pair) for row in rows]
        models = [self.lm, *(pair.models if pair else ())]
        drafts = requests[0].drafts
        drawn = (speculate if drafts else sample)(models, draws, self.tokenizer.end_ids)
        children = [
            self._child(request, h, stream, one, pair)
            for (request, h, _, stream), one in zip(rows, drawn, strict=True)
        ]
        for request in requests:
            for h in dict.fromkeys(request.hypotheses):
                _count_rows(h, 1, pair)
        for (_, h, _, _), draw, one in zip(rows, draws, drawn, strict=True):
            # What ended a chunk early was sampled, too; and drafts were read, accepted or not.
            sampled = draw.steps if drafts else one.sampled
            h.usage.proposed_tokens += sampled
            _count_rows(h, sampled - 1, pair)  # nothing is sampled after the last one
        flat = iter(children)
        return [[next(flat) for _ in r.hypotheses for _ in range(r.successors)] for r in requests]

    def _draw(
        self, request: Expand, h: Hypothesis, number: int, stream: int, pair: SteeringPair | None
    ) -> Draw:
        salt = salt_of(request.seed, *self.tokenizer.prompt_ids(h.prompt))
        steps = most_tokens(request, h)
        check_room(self, h, steps)
        until, tokenizer = request.until, self.tokenizer
        return Draw(
            parents=(self.paths[h], *(pair.segments(h) if pair else ())),
            steps=steps,
            sampling=request.sampling,
            place=(salt, stream),
            n_tokens=h.n_tokens,
            state=self._state(h, request.constraint),
            weights=(request.steering, -request.steering) if pair else (),
            known=self.tokenizer.size,
            suppressed=self.tokenizer.suppressed.ids,
            suppressed_first=self.tokenizer.suppressed.first,
            rank=number if request.distinct else None,
            parent_place=(salt, h.stream),
            until=until,
            end_of=functools.partial(
                end_of_chunk, until, tokenizer, tokenizer.context(h), h.pending
            )
            if until is not None and until.by_text
            else None,
        )

    def _child(
        self,
        request: Expand,
        parent: Hypothesis,
        stream: int,
        drawn: Drawn,
        pair: SteeringPair | None,
    ) -> Hypothesis:
        own, *guiding = drawn.segments
        sampling = request.sampling
        if not own.ids and not drawn.ended:
            return parent  # ``Until.least`` allows that nothing follows
        text, pending = self.tokenizer.decode_after(
            self.tokenizer.context(parent), parent.pending, own.ids
        )
        drift = None if pair is None else (parent.drift or 0.0) + sum(drawn.drifts)
        if stopped := cut_at_stop(sampling.stop, self.tokenizer, parent, text, own.ids, drift):
            return stopped
        full = parent.n_tokens + len(own.ids) >= sampling.max_tokens
        # The constraint cut this answer short to fit max_tokens, so its reason is "length".
        curtailed = drawn.state is not None and drawn.state.curtailed
        child = parent.extend(
            text,
            own.ids,
            pending=pending,
            finish_reason=(
                "eos"
                if drawn.ended and not curtailed
                else "length"
                if drawn.ended or full
                else None
            ),
            vocabulary=self.tokenizer.vocabulary,
            stream=stream,
            logprobs=own.logprobs + (() if drawn.end_logprob is None else (drawn.end_logprob,)),
            entropies=drawn.entropies,
            drift=drift,
        )
        if child.finished:
            own.kv = None  # nothing follows it
        elif drawn.state is not None:
            self._states[child] = drawn.state
        self.paths.keep(child, own, drawn.end_logprob or 0.0 if child.ended else 0.0)
        if pair is not None and not child.ended:
            pair.keep(child, guiding)
        return child


def _count_rows(hypothesis: Hypothesis, rows: int, pair: SteeringPair | None) -> None:
    """Count rows that the proposer reads to sample children, and with it the guides that steer."""
    hypothesis.usage.read_tokens += rows
    if pair is not None:
        pair.count(hypothesis, rows)
