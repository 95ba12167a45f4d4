"""``Reply``: the replies of OpenAI-compatible servers, checked against what was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, Field, model_validator

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
    """

    n: int
    tokens: int
    prompt: str | Sequence[int] | None
    echo: bool
    size: int

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


class Logprobs(BaseModel):
    """Log-probabilities of tokens, in the shape of the completions API."""

    tokens: list[str]
    token_logprobs: list[float | None]

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
