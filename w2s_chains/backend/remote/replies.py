"""What OpenAI-compatible servers answer, validated: a reply of another shape is a broken one."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Logprobs(BaseModel):
    """Log-probabilities of tokens, as the completions API has them."""

    tokens: list[str]
    token_logprobs: list[float | None]


class ReplyMessage(BaseModel):
    """What a chat model says."""

    content: str


class Choice(BaseModel):
    """One continuation.

    Attributes:
        text: The continuation alone.
        finish_reason: "length" or "stop"; others mean trouble.
        token_ids: Its tokens, where the server returns them; with the end token.
        prompt_token_ids: What the server made of the prompt, likewise.
        logprobs: Log-probabilities, where they were asked for.
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
        """Read the reply to a call of completions.

        Raises:
            pydantic.ValidationError: It is no JSON, or of another shape.
        """
        reply = cls.model_validate_json(body)
        return reply.model_copy(update={"choices": sorted(reply.choices, key=lambda c: c.index)})

    @classmethod
    def parse_chat(cls, body: bytes) -> Reply:
        """Read the reply to a call of chat completions; raises likewise."""
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
