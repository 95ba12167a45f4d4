"""``Reply``: the replies of OpenAI-compatible servers, checked against what was asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

CHARACTER_TOKENS = 4
"""Most tokens of a single character; a text of so few may be empty."""
_SPARE_TOKENS = CHARACTER_TOKENS
"""Tokens beyond max_tokens that a server (llama.cpp) may add to complete a character."""
_TOKEN_CHARACTERS = 256
"""More characters than the longest token of any vocabulary (runs of 128 spaces) has."""
_TOKEN_WORDS = 4
"""Most words in a token: one with nearly all tokenizers, four with SuperBPE."""
_SPECIAL_TOKENS = 64
"""Most tokens that a server adds to a raw prompt."""
_ROUNDING = 1e-3
"""How far above 0 a log-probability may be by rounding."""
_SURPLUS = 1e-2
"""How far above 1 the probabilities of one position may sum up by rounding."""
_LEAST_BYTES, _MOST_BYTES, _TOKEN_BYTES = 2**20, 2**26, 2**10
"""A reply may have a megabyte, and a kilobyte for every token of answer and prompt; 64 MB at most.
With log-probabilities a token takes about 200 bytes."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]


class BrokenReplyError(ValueError):
    """A reply contradicts itself or its request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a reply must fit.

    Attributes:
        n: Number of choices.
        tokens: Most tokens of each choice.
        prompt: The prompt as text or token ids; None for chat messages.
        echo: Whether the prompt comes back before the continuation.
        size: Most tokens of the prompt, in the worst case.
        top: How many of the likeliest tokens of each position are wanted; 0 if none.
    """

    n: int
    tokens: int
    prompt: str | Sequence[int] | None
    echo: bool
    size: int
    top: int = 0

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """Read a request."""
        prompt = body.get("prompt")
        texts = [message["content"] for message in body.get("messages", ())]
        return cls(
            n=body.get("n", 1),
            tokens=body["max_tokens"],
            prompt=prompt,
            echo=body.get("echo", False),
            size=len(cast("list[int]", prompt))
            if isinstance(prompt, list)
            else len("".join(texts or [prompt or ""]).encode(errors="replace")),
            top=top if (top := body.get("logprobs", 0)) > 1 else 0,
        )

    @property
    def most_bytes(self) -> int:
        """The most bytes of the reply."""
        tokens = self.n * self.tokens + self.size
        return min(_MOST_BYTES, _LEAST_BYTES + _TOKEN_BYTES * tokens)


def too_long(text: str, tokens: int) -> str | None:
    """Return what is wrong with a text that cannot be so few tokens, else None."""
    words = len(text.split()) if len(text) <= _TOKEN_CHARACTERS * tokens else 0
    if words <= _TOKEN_WORDS * tokens and len(text) <= _TOKEN_CHARACTERS * tokens:
        return None
    return f"a text of {len(text):,} characters ({words or 'many'} words) as {tokens} tokens"


_PART = re.compile(r"bytes:.*|<0x[0-9A-Fa-f]{2}>", re.DOTALL)
"""How OpenAI and tokenizers with byte fallback write a token that is part of a character."""
_ID = re.compile(r"token_id:([0-9]{1,10})")
"""How vLLM writes a token by its id (``return_tokens_as_token_ids``)."""

CONTROL = re.compile(
    r"<[|\uff5c][^<>]{1,64}[|\uff5c]>|</?(s|pad|unk|bos|eos|mask|start_of_turn|end_of_turn)>"
)
"""What the names of control tokens look like."""


class TopToken(BaseModel):
    """One of the likeliest tokens of a position, in the shape of llama.cpp and of the chat API.

    Attributes:
        token: Its text.
        logprob: Its log-probability, in nats.
        bytes: The bytes of the text, if the server tells them: it cuts the text to whole
            characters.
        id: Its token id, if the server tells it.
    """

    token: str
    logprob: float
    bytes: list[Annotated[int, Field(ge=0, le=255)]] | None = None
    id: TokenId | None = None

    @property
    def whole(self) -> str | None:
        """The text if it is known to consist of whole characters, else None."""
        known = self.token if self.bytes is None else bytes(self.bytes).decode(errors="replace")
        return None if not known or "\ufffd" in known or _PART.fullmatch(known) else known

    @property
    def named_id(self) -> int | None:
        """The token id that the text consists of, else None."""
        found = _ID.fullmatch(self.token)
        return None if found is None else int(found[1])


class _Position(TopToken):
    """A position in that shape."""

    top_logprobs: list[Any] | None = None


_POSITIONS = TypeAdapter(list[_Position])
_TOPS = TypeAdapter(list[dict[str, float] | list[TopToken]])


class Logprobs(BaseModel):
    """Log-probabilities of tokens, in the shape of the completions API.

    Attributes:
        tokens: The text of each token.
        token_logprobs: Its log-probability, in nats.
        top_logprobs: The likeliest tokens of each position; read them by ``tops``.
        ids: Their token ids, from llama.cpp.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: Any = None
    ids: list[TokenId | None] | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_positions(cls, value: Any) -> Any:
        """Read the shape of llama.cpp, which is that of the chat API."""
        found = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if "content" not in found or "tokens" in found:
            return cast("Any", value)
        positions = _POSITIONS.validate_python(found["content"])
        tops = [position.top_logprobs for position in positions]
        return {
            "tokens": [p.token if p.bytes is None else p.whole or "" for p in positions],
            "token_logprobs": [p.logprob for p in positions],
            "top_logprobs": None if None in tops else tops,
            "ids": [p.id for p in positions],
        }

    def sampled(self, place: int) -> TopToken:
        """Return the token that was sampled at a place."""
        number = None if self.ids is None else self.ids[place]
        return TopToken(token=self.tokens[place], logprob=0.0, id=number)

    def tops(self) -> list[list[TopToken]]:
        """Return the likeliest tokens of each position, likeliest first.

        Raises:
            BrokenReplyError: They are something else.
        """
        if self.top_logprobs is None:
            return []
        try:
            positions = _TOPS.validate_python(self.top_logprobs)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise BrokenReplyError(f"top_logprobs: {first['msg']}") from None
        if len(positions) != len(self.tokens):
            raise BrokenReplyError(
                f"top_logprobs of {len(positions)} positions for {len(self.tokens)} tokens"
            )
        found = [
            [TopToken(token=token, logprob=value) for token, value in position.items()]
            if isinstance(position, dict)
            else position
            for position in positions
        ]
        for position in found:
            for one in position:
                if not (math.isfinite(one.logprob) and one.logprob <= _ROUNDING):
                    raise BrokenReplyError(f"top_logprobs: {one.logprob} is no log-probability")
            total = math.fsum(math.exp(one.logprob) for one in position)
            if total > 1 + _SURPLUS:
                raise BrokenReplyError(f"top_logprobs: probabilities that sum up to {total:.3g}")
        return [sorted(position, key=lambda one: -one.logprob) for position in found]

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if len(self.tokens) != len(self.token_logprobs):
            raise ValueError(
                f"{len(self.tokens)} tokens have {len(self.token_logprobs)} log-probabilities"
            )
        for value in self.token_logprobs:
            if value is not None and not (math.isfinite(value) and value <= _ROUNDING):
                raise ValueError(f"{value} is no log-probability")
        return self


class ReplyMessage(BaseModel):
    """The message of a chat model."""

    content: str


class Choice(BaseModel):
    """One continuation.

    Attributes:
        index: Its place among the choices; None if the server does not number them.
        text: The continuation; with the prompt before it if the request asked for an echo.
        finish_reason: "length" or "stop"; any other value means trouble.
        token_ids: Its tokens, end token included, if the server returns them.
        prompt_token_ids: The prompt's tokens, if the server returns them.
        logprobs: Log-probabilities, if they were requested.
    """

    index: int | None = None
    text: str
    finish_reason: str
    token_ids: list[TokenId] | None = None
    prompt_token_ids: list[TokenId] | None = None
    logprobs: Logprobs | None = None


class ReplyUsage(BaseModel):
    """Tokens of all choices together."""

    prompt_tokens: Count
    completion_tokens: Count


class Reply(BaseModel):
    """The answer to one call."""

    choices: list[Choice] = Field(min_length=1)
    usage: ReplyUsage | None = None

    @classmethod
    def parse(cls, body: bytes, asked: Asked) -> Reply:
        """Read the reply to a completions call.

        Raises:
            pydantic.ValidationError: It is not JSON, or has another shape.
            BrokenReplyError: It contradicts itself or the request.
        """
        return cls.model_validate_json(body)._checked(asked)

    @classmethod
    def parse_chat(cls, body: bytes, asked: Asked) -> Reply:
        """Read the reply to a chat completions call; raises like ``parse``."""
        chat = _Chat.model_validate_json(body)
        choices: list[dict[str, Any]] = [
            {"index": c.index, "text": c.message.content, "finish_reason": c.finish_reason}
            for c in chat.choices
        ]
        return cls.model_validate({"choices": choices, "usage": chat.usage})._checked(asked)

    def _checked(self, asked: Asked) -> Reply:
        """Return the reply with its choices in order, after checking all its numbers."""
        n = len(self.choices)
        if n > asked.n:
            raise BrokenReplyError(f"{n} choices where {asked.n} were asked for")
        places = [choice.index for choice in self.choices if choice.index is not None]
        if len(set(places)) < len(places) or not set(places) <= set(range(asked.n)):
            raise BrokenReplyError(f"choices with the indexes {places[:8]}")
        for choice in self.choices:
            self._check_choice(choice, asked)
        if self.usage is not None:
            self._check_usage(self.usage, asked)
        ordered = sorted(self.choices, key=lambda choice: choice.index or 0)
        return self.model_copy(update={"choices": ordered})

    def _check_choice(self, choice: Choice, asked: Asked) -> None:
        most, ids = asked.tokens + _SPARE_TOKENS, choice.token_ids
        if ids is not None and len(ids) > most:
            raise BrokenReplyError(f"{len(ids)} token ids for max_tokens={asked.tokens}")
        text, told = choice.text, most
        if ids is not None:
            told = len(ids)
        elif self.usage is not None:
            told = min(most, self.usage.completion_tokens)
        told += asked.size + _SPECIAL_TOKENS if asked.echo else 0
        if wrong := too_long(text, told):
            raise BrokenReplyError(f"{wrong} (max_tokens={asked.tokens})")
        if isinstance(asked.prompt, list) and choice.prompt_token_ids not in (None, asked.prompt):
            raise BrokenReplyError("other token ids of the prompt than it was sent")
        if len(choice.prompt_token_ids or ()) > asked.size + _SPECIAL_TOKENS:
            raise BrokenReplyError(f"{len(choice.prompt_token_ids or ())} token ids of the prompt")
        scored = len(choice.logprobs.tokens) if choice.logprobs else 0
        if scored > most + (asked.size + _SPECIAL_TOKENS if asked.echo else 0):
            raise BrokenReplyError(
                f"log-probabilities of {scored} tokens (max_tokens={asked.tokens})"
            )
        for position in choice.logprobs.tops() if asked.top and choice.logprobs else ():
            if len(position) > asked.top + 1:  # and the sampled one, if it is not among them
                raise BrokenReplyError(f"{len(position)} top_logprobs for logprobs={asked.top}")
            for one in position:
                if wrong := too_long(one.token, 1):
                    raise BrokenReplyError(f"top_logprobs: {wrong}")

    def _check_usage(self, usage: ReplyUsage, asked: Asked) -> None:
        if usage.completion_tokens > len(self.choices) * (asked.tokens + _SPARE_TOKENS):
            raise BrokenReplyError(
                f"{usage.completion_tokens} tokens in {len(self.choices)} choices of at most "
                f"{asked.tokens} (max_tokens)"
            )
        if asked.prompt is not None and usage.prompt_tokens > asked.size + _SPECIAL_TOKENS:
            raise BrokenReplyError(
                f"{usage.prompt_tokens} prompt tokens for a prompt of at most {asked.size}"
            )


class _ChatChoice(BaseModel):
    index: int | None = None
    message: ReplyMessage
    finish_reason: str


class _Chat(BaseModel):
    choices: list[_ChatChoice]
    usage: ReplyUsage | None = None
