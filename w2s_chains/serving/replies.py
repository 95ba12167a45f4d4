"""What a client is sent for its request, in OpenAI's form: a whole answer, or chunks of a stream.

Every choice has a field ``w2s`` beside OpenAI's: score, KL and cost of the answer.
"""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from w2s_chains.core.events import Committed, Event, Finished, Grown, Scored
from w2s_chains.langchain.generation import answer_info
from w2s_chains.langchain.structured_output import AnswerReader
from w2s_chains.tracing.trace import Trace

Json = dict[str, Any]

_REASONS = {"eos": "stop", "stop": "stop", "length": "length", None: "stop"}


class AnyReply(ABC):
    """Forms the answers to one request.

    Attributes:
        usage: Whether chunks tell the usage.
        traces: The trees of the searches that are to be told, by the numbers of their answers.
    """

    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    prefix: ClassVar[str]
    _nothing: ClassVar[Json]
    """The part of a chunk that adds no text."""

    def __init__(self, model: str, n: int, usage: bool = False) -> None:
        """Begin a reply.

        Args:
            model: The name that the request gives.
            n: Answers per prompt.
            usage: Whether a stream ends with the usage.
        """
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        self._n = n
        self.usage = usage
        self.traces: dict[int, Trace] = {}

    def whole(self, answers: Sequence[Finished]) -> Json:
        """Return the body of a response."""
        choices = [
            {**self._choice(i, one), "index": i, "logprobs": None, "w2s": self._info(i, one)}
            for i, one in enumerate(answers)
        ]
        return {**self._head(self.whole_kind), "choices": choices, "usage": self.spent(answers)}

    def begun(self, index: int) -> Iterator[Json]:
        """Yield the chunks that begin an answer; by default none."""
        return iter(())

    def chunks(self, index: int, event: Event) -> Iterator[Json]:
        """Yield the chunks that tell an event of the search for an answer."""
        if isinstance(event, Committed):
            yield from self._grown(index, event.text)
        elif isinstance(event, Finished):
            yield from self._ended(index, event)
        elif isinstance(event, Grown):
            yield self._chunk(index, self._nothing, info={"grown": asdict(event)})
        elif isinstance(event, Scored):
            tokens = {id: asdict(found) for id, found in event.tokens.items()}
            scored = {"ids": event.ids, "scores": event.scores, "tokens": tokens}
            yield self._chunk(index, self._nothing, info={"scored": scored})

    @abstractmethod
    def _grown(self, index: int, text: str) -> Iterator[Json]: ...

    @abstractmethod
    def _ended(self, index: int, answer: Finished) -> Iterator[Json]: ...

    def over(self, answers: Sequence[Finished]) -> Iterator[Json]:
        """Yield the chunks that end a stream."""
        if self.usage:
            yield {**self._head(self.chunk_kind), "choices": [], "usage": self.spent(answers)}

    @abstractmethod
    def _choice(self, index: int, answer: Finished) -> Json: ...

    def _info(self, index: int, answer: Finished) -> Json:
        info = answer_info(answer)
        if (trace := self.traces.get(index)) is not None:
            info["trace"] = trace.model_dump(mode="json")
        return info

    def _chunk(
        self, index: int, part: Json, reason: str | None = None, info: Json | None = None
    ) -> Json:
        choice = {"index": index, **part, "logprobs": None, "finish_reason": reason}
        if info is not None:
            choice["w2s"] = info
        usage = {"usage": None} if self.usage else {}
        return {**self._head(self.chunk_kind), "choices": [choice], **usage}

    def _head(self, kind: str) -> Json:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
        }

    def cost(self, answers: Sequence[Finished]) -> dict[str, int]:
        """Return what the answers cost: tokens, and rows that the models read."""
        groups = [answers[i : i + self._n] for i in range(0, len(answers), self._n)]

        # Answers to one prompt share counters, so the last to finish has the full count.
        def total(name: str) -> int:
            return sum(max(getattr(one, name) or 0 for one in group) for group in groups)

        shared = ("prompt_tokens", "proposed_tokens", "read_tokens", "guide_tokens")
        written = sum(one.completion_tokens or 0 for one in answers)
        return {"completion_tokens": written, **{name: total(name) for name in shared}}

    def spent(self, answers: Sequence[Finished]) -> Json | None:
        """Return the usage: tokens of prompts and answers, and those that were proposed in vain.

        Rejected tokens are not among the answer's. None if a proposer counts no tokens.
        """
        if any(one.completion_tokens is None for one in answers):
            return None
        cost = self.cost(answers)
        read, written = cost["prompt_tokens"], cost["completion_tokens"]
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "completion_tokens_details": {
                "accepted_prediction_tokens": written,
                "rejected_prediction_tokens": max(cost["proposed_tokens"] - written, 0),
            },
        }


class TextReply(AnyReply):
    """Answers of ``/v1/completions``."""

    whole_kind = chunk_kind = "text_completion"
    prefix = "cmpl"
    _nothing: ClassVar[Json] = {"text": ""}

    def _choice(self, index: int, answer: Finished) -> Json:
        return {"text": answer.text, "finish_reason": _REASONS[answer.finish_reason]}

    def _grown(self, index: int, text: str) -> Iterator[Json]:
        yield self._chunk(index, {"text": text})

    def _ended(self, index: int, answer: Finished) -> Iterator[Json]:
        reason = _REASONS[answer.finish_reason]
        yield self._chunk(index, self._nothing, reason, self._info(index, answer))


class ChatReply(AnyReply):
    """Answers of ``/v1/chat/completions``."""

    whole_kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"
    _nothing: ClassVar[Json] = {"delta": {}}

    def __init__(
        self, model: str, n: int, usage: bool, readers: Sequence[AnswerReader], formed: bool
    ) -> None:
        """Begin a reply.

        Args:
            model: As for ``AnyReply``.
            n: As for ``AnyReply``.
            usage: As for ``AnyReply``.
            readers: Tell thoughts, text and calls apart, one for each answer.
            formed: Whether answers are JSON, which is whole even where ``max_tokens`` ends it:
                clients throw away what ends by "length".
        """
        super().__init__(model, n, usage)
        self._readers = readers
        self._formed = formed

    def _choice(self, index: int, answer: Finished) -> Json:
        thought, text, calls = self._readers[index].whole(answer.text)
        message: Json = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "refusal": None,
        }
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        return {"message": message, "finish_reason": self._reason(answer, calls)}

    def begun(self, index: int) -> Iterator[Json]:
        yield self._delta(index, {"role": "assistant", "content": ""})

    def _grown(self, index: int, text: str) -> Iterator[Json]:
        thought, said = self._readers[index].text(text)
        yield from self._told(index, thought, said)

    def _ended(self, index: int, answer: Finished) -> Iterator[Json]:
        thought, said, calls = self._readers[index].rest()
        yield from self._told(index, thought, said)
        if calls:
            told = [{"index": i, **_call(call)} for i, call in enumerate(calls)]
            yield self._delta(index, {"tool_calls": told})
        reason = self._reason(answer, calls)
        yield self._chunk(index, self._nothing, reason, self._info(index, answer))

    def _reason(self, answer: Finished, calls: Sequence[object]) -> str:
        if calls:
            return "tool_calls"
        return "stop" if self._formed else _REASONS[answer.finish_reason]

    def _told(self, index: int, thought: str, said: str) -> Iterator[Json]:
        if thought:
            yield self._delta(index, {"reasoning_content": thought})
        if said:
            yield self._delta(index, {"content": said})

    def _delta(self, index: int, delta: Json) -> Json:
        return self._chunk(index, {"delta": delta})


def _call(call: Mapping[str, Any]) -> Json:
    arguments = json.dumps(call["args"], ensure_ascii=False)
    function = {"name": call["name"], "arguments": arguments}
    return {"id": f"call_{call['id']}", "type": "function", "function": function}
