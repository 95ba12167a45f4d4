"""Requests to an OpenAI-compatible server: ``ServedPrompting`` and ``Continuation``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.remote.event_loop import all_of
from w2s_chains.backend.remote.probe import Capabilities
from w2s_chains.backend.remote.replies import CHARACTER_TOKENS, Choice, Reply
from w2s_chains.backend.remote.server import Server
from w2s_chains.backend.text.stop_strings import find_stop
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams, noise_key
from w2s_chains.errors import ServerError

_REPLACEMENT = "\ufffd"
_STOP_TOKENS = 64
"""The most tokens per request if there are stop strings. We search for these ourselves, since
servers do not distinguish a stop string from the end of a turn."""
_MORE_TOKENS = (0, 4, 16)
"""Extra tokens to try, since a single character may need more tokens than a chunk has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPrompting:
    """A served model and how it reads a prompt.

    Attributes:
        server: The connection to the server.
        template: How prompts are rendered.
        tokenizer: Its tokenizer with that template; None if only the server knows the tokens.
        vocabulary_size: One more than the largest id of that tokenizer.
        prompt_ids: Token ids of prompts as the server returned them, by root hypothesis.
    """

    server: Server
    template: PromptTemplate
    tokenizer: Tokenizer | None
    vocabulary_size: int = 2**31
    prompt_ids: WeakKeyDictionary[Hypothesis, list[int]] = field(
        default_factory=WeakKeyDictionary[Hypothesis, list[int]]
    )

    def rendered(self, prompt: Prompt) -> str:
        """Return the prompt as text.

        Raises:
            PromptError: Text cannot represent the same tokens, or the chat template refuses the
                prompt.
        """
        if self.tokenizer is not None:
            return self.tokenizer.rendered(prompt)
        return self.template.template.replace("{prompt}", prompt.plain_text)

    def ids_of(self, root: Hypothesis) -> Sequence[int] | None:
        """Return the token ids of the prompt if they are known."""
        if self.tokenizer is not None:
            return self.tokenizer.prompt_ids(root.prompt)
        return self.prompt_ids.get(root)

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """Return the prompt for a server that applies the chat template itself."""
        turns = [{"role": turn.role, "content": turn.plain_text} for turn in prompt.turns]
        if prompt.text is not None:
            turns[0]["content"] = self.template.template.replace("{prompt}", prompt.text)
        if self.template.system is not None and turns[0]["role"] != "system":
            turns.insert(0, {"role": "system", "content": self.template.system})
        return turns


class Continuation:
    """Answer one request.

    Args:
        model: The model.
        can: What its server can do.
        request: The request to answer.
        by_messages: Send chat messages instead of a text to continue.
    """

    def __init__(
        self, model: ServedPrompting, can: Capabilities, request: Expand, by_messages: bool
    ) -> None:
        self.model = model
        self.can = can
        self.request = request
        self.by_messages = by_messages

    async def children(self, h: Hypothesis) -> list[Hypothesis]:
        """Return the children of one hypothesis; at temperature 0 they are all the same object.

        Raises:
            ServerError: The server does not return them.
            PromptError: The prompt cannot be rendered.
        """
        h.usage.read_tokens += 1
        streams = self.request.streams(h)
        if self.request.sampling.temperature == 0:
            del streams[1:]
        together = await self._sample(h, streams) if self.can.n and len(streams) > 1 else []
        rest = streams[len(together) :]
        alone = await all_of(lambda stream: self._sample(h, [stream]), rest)
        pieces = [*together, *(piece for [piece] in alone)]
        wanted = self._wanted(h)
        if self.request.chunk_tokens is None or wanted > _STOP_TOKENS:
            pieces = await all_of(lambda piece: self._whole(piece, h.n_tokens + wanted), pieces)
        return [pieces[i % len(pieces)] for i in range(self.request.successors)]

    def _wanted(self, h: Hypothesis) -> int:
        left = self.request.sampling.max_tokens - h.n_tokens
        return left if self.request.chunk_tokens is None else min(self.request.chunk_tokens, left)

    async def _whole(self, child: Hypothesis, end: int) -> Hypothesis:
        """Continue ``child`` until it is finished or has ``end`` tokens."""
        while not child.finished and child.n_tokens < end:
            child.usage.read_tokens += 1  # the last token of the call before
            [child] = await self._sample(child, [child.stream], end)
        return child

    async def _sample(
        self, h: Hypothesis, streams: Sequence[int], end: int | None = None
    ) -> list[Hypothesis]:
        """Return one child per stream, or fewer if the server returns fewer choices."""
        wanted = self._wanted(h) if end is None else end - h.n_tokens
        if self.request.sampling.stop and not self.by_messages:
            wanted = min(wanted, _STOP_TOKENS)
        most, asked, limit = self.request.sampling.max_tokens - h.n_tokens, 0, 0
        for more in _MORE_TOKENS:
            if limit == most:
                break  # no more may be asked for
            asked = limit = min(wanted + more, most)
            reply = await self._call(h, streams, asked)
            while (unsettled := self._unsettled(h, reply, asked)) and asked > 1:
                asked -= 1
                reply = await self._call(h, streams, asked)
            children = [
                self._child(h, stream, choice, tokens)
                for stream, choice, tokens in zip(
                    streams, reply.choices, _counts(reply, asked), strict=False
                )
            ]
            some = all(_is_some(child, asked) for child in children)
            if some and not (unsettled and more < _MORE_TOKENS[-1]):
                return children
        raise ServerError(
            f"{self.model.server.name} gave no text for {asked} tokens after {h.response[-40:]!r}; "
            "if the model thinks before it answers, raise max_tokens"
        )

    def _unsettled(self, h: Hypothesis, reply: Reply, asked: int) -> bool:
        """Return whether the end of a greedy text would tokenize differently when it is sent back.

        Tokenizers treat whitespace differently at the end of a text and before a word. A greedy
        chunk drops it, since the next chunk produces it again. A sampled chunk keeps it, since the
        next chunk might not.
        """
        sampling, [choice, *_] = self.request.sampling, reply.choices
        return (
            sampling.temperature == 0
            and not self.can.token_ids
            and choice.finish_reason == "length"
            and h.n_tokens + asked < sampling.max_tokens
            and choice.text[-1:].isspace()
        )

    async def _call(self, h: Hypothesis, streams: Sequence[int], tokens: int) -> Reply:
        reply = await self._send(h, self._body(h, streams, tokens, self.request.sampling))
        told = None if reply.usage is None else reply.usage.completion_tokens
        sampled = sum(_counts(reply, tokens)) if told is None else told
        h.usage.proposed_tokens += sampled
        h.usage.read_tokens += max(sampled - len(reply.choices), 0)
        return reply

    def _body(
        self, h: Hypothesis, streams: Sequence[int], tokens: int, sampling: SamplingParams
    ) -> dict[str, Any]:
        """Return a request for one choice per stream, without its prompt."""
        seed, _ = noise_key(self.request.seed, repr(h.prompt), streams[0], h.n_tokens)
        body: dict[str, Any] = {
            "max_tokens": tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "n": len(streams),
            "seed": seed & 0x7FFFFFFF,
            "stream": False,
            **self.can.filters_off,
        }
        if sampling.top_k is not None:
            body["top_k"] = sampling.top_k
        if sampling.min_p:
            body["min_p"] = sampling.min_p
        if sampling.repetition_penalty != 1:
            names = ("repetition_penalty", "repeat_penalty")
            body |= dict.fromkeys(names, sampling.repetition_penalty)
        return body

    async def _send(self, h: Hypothesis, body: dict[str, Any]) -> Reply:
        """Call the server; note what it says about the prompt."""
        if self.by_messages:
            reply = await self.model.server.chat(
                {"messages": self.model.messages(h.prompt), **body}
            )
        else:
            ids = {"return_token_ids": True} if self.can.token_ids else {}
            reply = await self.model.server.complete({"prompt": self._prompt(h), **body, **ids})
        if h.parent is None:  # later calls send the same prompt again
            known = self.model.ids_of(h) if reply.usage is None else None
            count = len(known or ()) if reply.usage is None else reply.usage.prompt_tokens
            h.usage.prompt_tokens = max(h.usage.prompt_tokens, count)
        if h.parent is None and (told := reply.choices[0].prompt_token_ids):
            self.model.prompt_ids[h] = told
        return reply

    def _prompt(self, h: Hypothesis) -> str | list[int]:
        """Return prompt and response, as token ids if all of them are known."""
        ids = h.response_ids
        if self.can.token_ids and ids is not None:
            known = self.model.ids_of(h.origin)
            if known is not None:
                return [*known, *ids]
        return self.model.rendered(h.prompt) + h.response

    def _child(self, h: Hypothesis, stream: int, choice: Choice, tokens: int) -> Hypothesis:
        text = self.model.tokenizer
        if choice.finish_reason not in ("stop", "length"):
            raise ServerError(
                f"{self.model.server.name} ended an answer with finish_reason "
                f"{choice.finish_reason!r}, which is no answer"
            )
        ended = choice.finish_reason == "stop"
        said, ids, pending = choice.text, choice.token_ids if self.can.token_ids else None, ()
        if ids is not None and text is not None:
            if max(ids, default=0) >= self.model.vocabulary_size:
                raise ServerError(
                    f"{self.model.server.name} gave the token id {max(ids)}, but its tokenizer has "
                    f"only {self.model.vocabulary_size}; give the model's own tokenizer"
                )
            while ended and ids and ids[-1] in text.end_ids:
                ids = ids[:-1]
            said, pending = text.decode_after(text.context(h), h.pending, ids)
            tokens = len(ids)
        elif not ended and said.endswith(_REPLACEMENT):
            # The text was cut inside a character; drop the partial character and sample it again.
            said, ids = said.rstrip(_REPLACEMENT), None
        elif ended:
            ids = None  # the last id may be the end token
        return self._extended(h, stream, said, ids, pending=pending, ended=ended, tokens=tokens)

    def _extended(
        self,
        h: Hypothesis,
        stream: int,
        said: str,
        ids: Sequence[int] | None,
        *,
        pending: tuple[int, ...],
        ended: bool,
        tokens: int,
        logprobs: tuple[float, ...] | None = None,
    ) -> Hypothesis:
        """Return the child with a text, which a stop string may cut."""
        sampling, text = self.request.sampling, self.model.tokenizer
        before = h.response
        if (cut := find_stop(sampling.stop, before, said)) is not None:
            anchor = next(a for a in h.ancestors() if a.n_chars <= cut and not a.pending)
            return anchor.extend(
                (before + said)[anchor.n_chars : cut],
                finish_reason="stop",
                stream=stream,
                n_tokens=h.n_tokens + tokens - anchor.n_tokens,
            )
        full = h.n_tokens + tokens >= sampling.max_tokens or self.by_messages
        return h.extend(
            said,
            None if ids is None else tuple(ids),
            pending=pending,
            finish_reason="eos" if ended else "length" if full else None,
            vocabulary=text.vocabulary if text is not None and ids is not None else None,
            stream=stream,
            n_tokens=tokens,
            logprobs=logprobs,
        )


def _is_some(child: Hypothesis, asked: int) -> bool:
    """Return whether a child is an answer, or leads on; a cut that gave nothing is neither."""
    if child.text or child.pending or child.finish_reason in ("eos", "stop"):
        return True
    return child.finished and (bool(child.token_ids) or asked <= CHARACTER_TOKENS)


def _counts(reply: Reply, asked: int) -> list[int]:
    """Return the token count of each choice, as reported or inferred from the reported usage."""
    choices = reply.choices
    known = [
        len(choice.token_ids)
        if choice.token_ids is not None
        else asked
        if choice.finish_reason == "length" and (len(choices) > 1 or reply.usage is None)
        else None
        for choice in choices
    ]
    unknown = known.count(None)
    spent = sum(count or 0 for count in known)
    rest = asked * unknown if reply.usage is None else reply.usage.completion_tokens - spent
    share = max(rest, 0) // max(unknown, 1)
    return [share if count is None else count for count in known]
