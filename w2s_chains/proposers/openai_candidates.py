"""``DistinctContinuation``: candidates for the next token from the likeliest ones of a server."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from w2s_chains.backend.remote.event_loop import all_of
from w2s_chains.backend.remote.probe import Capabilities
from w2s_chains.backend.remote.replies import CONTROL, Choice, TopToken
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import (
    DEFAULT_SAMPLING,
    GREEDY_BELOW,
    SamplingParams,
    fork,
    log_exponential,
    noise_key,
)
from w2s_chains.errors import ServerError
from w2s_chains.proposers.openai_requests import Continuation, ServedPrompting

_ENDS = frozenset(
    {
        "</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|end|>",
        "<end_of_turn>", "<|eot|>", "<|return|>", "<|END_OF_TURN_TOKEN|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    }
)  # fmt: skip
"""Names of tokens that end a turn, for servers whose tokenizer is not known here."""
_TRIES = 8
"""How often a server is asked for the likeliest tokens where it ends its turn and tells none."""
_FAR = 700.0
"""The largest exponent of a float, about."""


def names_by_ids(model: ServedPrompting, can: Capabilities) -> bool:
    """Return whether candidates are taken by token id, which loses nothing, or by text."""
    return can.token_ids and can.top_ids and model.tokenizer is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCandidate:
    """A candidate for the next token.

    Attributes:
        logprob: log p under the frozen model, at temperature 1 and unfiltered, in nats; None if the
            server does not tell it.
        text: Its text; "" if it is known by its id.
        token_id: Its token id; None if it is known by its text.
        ends: Whether it ends the turn.
    """

    logprob: float | None
    text: str = ""
    token_id: int | None = None
    ends: bool = False

    @property
    def word(self) -> int:
        """What seeds its noise: the id, as in process, or a hash of the text."""
        if self.token_id is not None:
            return self.token_id
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=4).digest(), "little")


def kept(logprobs: Sequence[float], sampling: SamplingParams) -> list[float]:
    """Return the tempered log-probabilities, not normalised, of the tokens that no filter drops.

    ``top_p`` counts in the whole distribution. All tokens that the server did not tell are one
    token there. At temperatures up to 1 that is the most probability they can have.

    Args:
        logprobs: The likeliest tokens of a position, likeliest first, in nats.
        sampling: Temperature and filters.
    """
    temperature = 1.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature
    scores = [value / temperature for value in logprobs[: sampling.top_k]]
    best = scores[0]
    if sampling.top_p < 1:
        untold = 1 - math.fsum(map(math.exp, logprobs))
        whole = sampling.top_k is None or sampling.top_k > len(logprobs)
        far = math.log(untold) / temperature - best if whole and untold > 0 else -math.inf
        rest = math.exp(min(far, _FAR))
        weights = [math.exp(score - best) for score in scores]
        total = math.fsum(weights) + rest
        before, count = 0.0, 0
        for weight in weights:
            if before >= sampling.top_p * total:
                break
            before, count = before + weight, count + 1
        scores = scores[:count]
    if sampling.min_p:
        scores = [score for score in scores if score >= best + math.log(sampling.min_p)]
    return scores


class DistinctContinuation(Continuation):
    """Answer a request for children that begin with different tokens.

    One call of one token gives the likeliest tokens of the position. The first tokens are drawn
    from them here without replacement (Gumbel top-k, Kool et al., 2019), with the noise of this
    process: a child depends neither on the server's random numbers nor on other requests. Longer
    chunks then take a call for every child.
    """

    async def children(self, h: Hypothesis) -> list[Hypothesis]:
        request = self.request
        h.usage.read_tokens += 1
        h.usage.proposed_tokens += request.successors
        told = await self._told(h)
        # llama-cpp-python tells nothing of the end of a turn: it is known only where it is certain,
        # or likelier than any token.
        certain = TokenCandidate(logprob=None, ends=True)
        order = self._drawn(h, told, await self._unnamed_end(h, told)) if told else [certain]
        children = [
            self._grown(h, stream, order[i % len(order)])
            for i, stream in enumerate(request.streams(h), request.first)
        ]
        if (wanted := self._wanted(h)) > 1:
            children = await all_of(lambda child: self._whole(child, h.n_tokens + wanted), children)
        return children

    async def _told(self, h: Hypothesis) -> list[TopToken]:
        """Return the likeliest tokens after a hypothesis, likeliest first; none if it always ends.

        Raises:
            ServerError: The server does not tell them, or its names of tokens are misleading.
        """
        most = self.can.top_logprobs
        # The distribution as it is: temperature and filters are applied here.
        body = self._body(h, [h.stream], 1, DEFAULT_SAMPLING) | {"logprobs": most}
        if self._by_ids:
            body["return_tokens_as_token_ids"] = True
        for _ in range(_TRIES):
            choice = (await self._send(h, body)).choices[0]
            tops = choice.logprobs.tops() if choice.logprobs else []
            if tops or choice.finish_reason != "stop":
                break
            body["seed"] = body["seed"] + 1 & 0x7FFFFFFF
        else:
            return []
        told = tops[0][:most] if tops else []  # a sampled token that is not among them comes last
        if len(told) * 4 < most:  # tokens that have one name come once
            raise ServerError(
                f"{self.model.server.name} told the {len(told)} likeliest tokens after "
                f"{h.response[-40:]!r} where {most} were asked for, as it did before"
            )
        self._check_sample(choice)
        return told

    async def _unnamed_end(self, h: Hypothesis, told: Sequence[TopToken]) -> bool:
        """Return whether the likeliest token has no name because it ends the turn."""
        best = told[0]
        if best.token or (best.id is not None and self.model.tokenizer is not None):
            return False
        body = self._body(h, [h.stream], 1, DEFAULT_SAMPLING) | {"temperature": 0.0}
        choice = (await self._send(h, body)).choices[0]
        return choice.finish_reason == "stop" and not choice.text

    def _check_sample(self, choice: Choice) -> None:
        """Check the names of tokens by the one that the server has sampled itself."""
        server = self.model.server.name
        assert choice.logprobs is not None
        sampled = choice.logprobs.sampled(0)
        if choice.finish_reason == "stop":
            meaning = self._meaning(sampled) if sampled.token or sampled.id is not None else None
            unnamed = not sampled.token and (sampled.id is None or self.model.tokenizer is None)
            if not unnamed and (meaning is None or not meaning.ends):
                raise ServerError(
                    f"{server} ended its turn with the token {sampled.token!r}, which is not known "
                    f"to end one; give {'the right' if self.model.tokenizer else 'its'} tokenizer"
                )
            return
        text, name = choice.text, sampled.whole
        known = not self._by_ids and name and "\ufffd" not in text
        if known and name and not name.startswith(text[: len(name)]):
            raise ServerError(
                f"{server} names the token of the text {text!r} {name!r}, so that the texts of "
                "candidates are not known; use a server that tells token ids, or leave out distinct"
            )

    @property
    def _by_ids(self) -> bool:
        return names_by_ids(self.model, self.can)

    def _drawn(self, h: Hypothesis, told: Sequence[TopToken], ends: bool) -> list[TokenCandidate]:
        """Return all usable candidates in the order in which they are drawn.

        Args:
            h: What they continue.
            told: The likeliest tokens.
            ends: Whether the likeliest one ends the turn, though it has no name.

        Raises:
            ServerError: There is none.
        """
        sampling = self.request.sampling
        scores = kept([one.logprob for one in told], sampling)
        pool: dict[tuple[str, int | None], tuple[float, TokenCandidate]] = {}
        if ends:
            pool["", None] = scores[0], TokenCandidate(logprob=told[0].logprob, ends=True)
        for one, score in zip(told, scores, strict=False):
            if (known := self._meaning(one)) is not None:
                pool.setdefault((known.text, known.token_id), (score, known))
        if not pool:
            raise ServerError(
                f"{self.model.server.name} told no likely token after {h.response[-40:]!r} that is "
                "a text of whole characters"
            )
        if sampling.temperature < GREEDY_BELOW:
            return [known for _, known in pool.values()]
        tokenizer, seed = self.model.tokenizer, self.request.seed
        place = (
            (seed, repr(h.prompt))
            if tokenizer is None
            else (fork(seed, *tokenizer.prompt_ids(h.prompt)),)  # as in process
        )
        key = noise_key(*place, h.stream, h.n_tokens)
        noised = {known: score - log_exponential(key, known.word) for score, known in pool.values()}
        return sorted(noised, key=lambda known: -noised[known])

    def _meaning(self, told: TopToken) -> TokenCandidate | None:
        """Return what a told token adds to the answer; None if that is not known.

        Known by text, parts of characters and control tokens that do not end the turn are left
        out: sent back as text, they would be other tokens.
        """
        tokenizer = self.model.tokenizer
        if self._by_ids and tokenizer is not None:
            number = told.named_id
            size = self.model.vocabulary_size
            if number is None or number >= size:
                raise ServerError(
                    f"{self.model.server.name} told the token {told.token!r}, but its tokenizer "
                    f"has only {size} ids; give the model's own tokenizer"
                )
            ends = number in tokenizer.end_ids
            return TokenCandidate(logprob=told.logprob, token_id=number, ends=ends)
        ends, others = self._control
        name = told.token
        if name in ends or (tokenizer is not None and told.id in tokenizer.end_ids):
            return TokenCandidate(logprob=told.logprob, ends=True)
        if (text := told.whole) is None or text in others or told.named_id is not None:
            return None
        if tokenizer is None and CONTROL.fullmatch(text):
            return None
        return TokenCandidate(logprob=told.logprob, text=text)

    @cached_property
    def _control(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of the tokens that end a turn, and of other control tokens."""
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return _ENDS, frozenset()
        return tokenizer.control_texts

    def _grown(self, h: Hypothesis, stream: int, candidate: TokenCandidate) -> Hypothesis:
        tokenizer, number = self.model.tokenizer, candidate.token_id
        ids = None if number is None else () if candidate.ends else (number,)
        said, pending = candidate.text, ()
        if ids is not None and tokenizer is not None:
            said, pending = tokenizer.decode_after(tokenizer.context(h), h.pending, ids)
        return self._extended(
            h,
            stream,
            said,
            ids,
            pending=pending,
            ended=candidate.ends,
            tokens=0 if candidate.ends else 1,
            # Those of later tokens are not told, and parts of a chunk's would mislead.
            logprobs=(candidate.logprob,)
            if self._wanted(h) == 1 and candidate.logprob is not None
            else None,
        )
