"""``Reply``: the validated replies of OpenAI-compatible servers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Logprobs(BaseModel):
    """Log-probabilities of tokens, in the shape of the completions API."""

    tokens: list[str]
    token_logprobs: list[float | None]


class ReplyMessage(BaseModel):
    """The message of a chat model."""

    content: str


class Choice(BaseModel):
    """One continuation.

    Attributes:
        text: The continuation; with the prompt before it if the request asked for an echo.
        finish_reason: "length" or "stop"; any other value means trouble.
        token_ids: Its tokens, end token included, if the server returns them.
        prompt_token_ids: The prompt's tokens, if the server returns them.
        logprobs: Log-probabilities, if they were requested.
    """

    index: int = 0
    text: str
    finish_reason: str
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: Logprobs | None = None


class ReplyUsage(BaseModel):
    """Tokens of all choices together."""

    prompt_tokens: int
    completion_tokens: int


class Reply(BaseModel):
    """The answer to one call."""

    choices: list[Choice] = Field(min_length=1)
    usage: ReplyUsage | None = None

    @classmethod
    def parse(cls, body: bytes) -> Reply:
        """Read the reply to a completions call.

        Raises:
            pydantic.ValidationError: It is not JSON, or has another shape.
        """
        reply = cls.model_validate_json(body)
        return reply.model_copy(update={"choices": sorted(reply.choices, key=lambda c: c.index)})

    @classmethod
    def parse_chat(cls, body: bytes) -> Reply:
        """Read the reply to a chat completions call; raises like ``parse``."""
        chat = _Chat.model_validate_json(body)
        choices: list[dict[str, Any]] = [
            {"index": c.index, "text": c.message.content, "finish_reason": c.finish_reason}
            for c in chat.choices
        ]
        return cls.model_validate({"choices": choices, "usage": chat.usage})


class _ChatChoice(BaseModel):
    index: int = 0
    message: ReplyMessage
    finish_reason: str


class _Chat(BaseModel):
    choices: list[_ChatChoice]
    usage: ReplyUsage | None = None
