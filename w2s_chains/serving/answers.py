"""``Call``, a request that is ready to run, and ``Answering``, the response that runs it.

The searches of a request start when there is room for it. They end with the request: when its
client leaves, when its time is over, when the server stops.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import anyio
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from w2s_chains.core.events import Committed, Event, Finished, Grown, Scored
from w2s_chains.engine.job import Job
from w2s_chains.engine.waiting import EventStream
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.chat_models import ChatW2S
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.langchain.tools import response_schema
from w2s_chains.langchain.tracing import builder_of
from w2s_chains.serving.catalog import Served, changed
from w2s_chains.serving.limits import Gate, Limits
from w2s_chains.serving.refusals import RefusedError, refusal_of
from w2s_chains.serving.replies import AnyReply, ChatReply, TextReply
from w2s_chains.serving.requests import AnyRequest, ChatRequest, CompletionRequest
from w2s_chains.tracing.builder import TraceBuilder

logger = logging.getLogger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients skip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that is ready to run.

    Attributes:
        model: The model, with the fields of this request.
        jobs: The searches.
        reply: The form of the answers.
        stream: Whether the client wants chunks.
        trace: Whether it wants the trees of the searches.
    """

    model: W2SLLM | ChatW2S
    jobs: list[Job]
    reply: AnyReply
    stream: bool
    trace: bool

    @classmethod
    def prepare(
        cls, served: Served, strategy: str | None, asked: AnyRequest, limits: Limits
    ) -> Call:
        """Check a request, down to the length of its prompt; no model runs.

        Raises:
            W2SError: It cannot be answered.
            RefusedError: The model is of another kind, or too much is asked for.
        """
        overrides = dict(asked.overrides)
        stream, trace = bool(asked.stream), bool(asked.options.trace)
        if asked.options.strategy is not None or strategy or asked.options.steering is not None:
            try:
                overrides["strategy"] = served.strategy(strategy, asked.options)
            except ConfigError as error:
                raise RefusedError(400, str(error), "invalid_value", param="w2s") from error
        reply: AnyReply
        if isinstance(asked, ChatRequest):
            if served.chat is None:
                raise _wrong_kind(served.name, "raw text", "/v1/completions", "chat")
            chat: ChatW2S = changed(served.chat, overrides)
            _check_effort(chat, 1, limits)
            if chat.tools:
                chat.check_form()
            prompt = chat.as_prompt([turn.message for turn in asked.messages])
            jobs = chat.jobs([prompt])
            readers = [chat.answer_reader(prompt) for _ in jobs]
            formed = response_schema(chat.response_format) is not None
            reply = ChatReply(asked.model, chat.n, asked.tells_usage, readers, formed)
            return cls(model=chat, jobs=jobs, reply=reply, stream=stream, trace=trace)
        assert isinstance(asked, CompletionRequest)
        if served.llm is None:
            raise _wrong_kind(served.name, "conversations", "/v1/chat/completions", "llm")
        llm: W2SLLM = changed(served.llm, overrides)
        _check_effort(llm, len(asked.prompts), limits)
        jobs = llm.jobs(asked.prompts)
        reply = TextReply(asked.model, llm.n, asked.tells_usage)
        return cls(model=llm, jobs=jobs, reply=reply, stream=stream, trace=trace)

    def events(self) -> EventStream:
        """Return the searches, which start when they are entered."""
        wanted = (Committed,) if self.stream or self.trace else ()
        wanted += (Scored, Grown) if self.trace else ()
        return EventStream(self.model.engine, self.jobs, wanted)

    def builders(self) -> list[TraceBuilder]:
        """Return what builds the trees, one for each search; none if they are not wanted."""
        return [builder_of(job, self.model.model_name) for job in self.jobs if self.trace]


def _wrong_kind(name: str, reads: str, route: str, kind: str) -> RefusedError:
    message = f"the model {name!r} reads {reads}; ask {route}, or serve a config of 'type: {kind}'"
    return RefusedError(400, message, "wrong_route", param="model")


def _check_effort(model: W2SLLM | ChatW2S, prompts: int, limits: Limits) -> None:
    branches = prompts * model.n * model.strategy.branches
    if branches > limits.candidates:
        message = (
            f"{prompts} prompts, n={model.n:,} and {model.strategy.branches:,} partial answers of "
            f"the search are {branches:,} partial answers at once; this server grows at most "
            f"{limits.candidates:,} for one request"
        )
        raise RefusedError(400, message, "too_many_candidates", param="n")


class Answering(Response):
    """Runs a call, and sends its answers, whole or as server-sent events."""

    background = None

    def __init__(self, call: Call, gate: Gate, limits: Limits, notes: MutableMapping[str, Any]):
        """Prepare the response.

        Args:
            call: The request.
            gate: Lets it in; ``gate.check`` has just been called.
            limits: Those of the server.
            notes: Takes what the log and the metrics tell of this request.
        """
        self._call = call
        self._gate = gate
        self._limits = limits
        self._notes = notes
        self._begun = time.perf_counter()
        self._ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, unless the client leaves before."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, receive, group.cancel_scope)
            if self._call.stream:
                await self._stream(send)
            else:
                await self._whole(send)
            group.cancel_scope.cancel()

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._ended:  # servers say so at the end of every response, too
            self._notes["left"] = True
            scope.cancel()

    async def _whole(self, send: Send) -> None:
        headers: Mapping[str, str] = {}
        try:
            body, status = self._call.reply.whole(await self._answers()), 200
        except Exception as error:
            refusal = self._refusal(error)
            body, status, headers = refusal.body, refusal.status, refusal.headers
        await begin(send, status, {"content-type": "application/json", **headers})
        await self._end(send, to_json(body))

    async def _stream(self, send: Send) -> None:
        await begin(send, 200, _STREAM)
        reply = self._call.reply
        last = b"data: [DONE]\n\n"
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_alive, send)
            try:
                for index in range(len(self._call.jobs)):
                    await _tell(send, reply.begun(index))
                answers = await self._answers(send)
                await _tell(send, reply.over(answers))
            except Exception as error:
                last = _event(self._refusal(error).body)
            group.cancel_scope.cancel()
        await self._end(send, last)

    async def _end(self, send: Send, body: bytes) -> None:
        self._ended = True
        await send({"type": "http.response.body", "body": body})

    async def _answers(self, send: Send | None = None) -> list[Finished]:
        """Wait for room, and for the answers; tell of what happens meanwhile."""
        reply = self._call.reply
        found: dict[int, Finished] = {}
        builders = self._call.builders()
        with self._gate.place() as room:
            async with room:
                with self._call.events() as events:
                    async for index, event in events:
                        if builders:
                            builders[index].take(event)
                        if isinstance(event, Finished):
                            found[index] = event
                            if builders:
                                reply.traces[index] = builders[index].trace()
                        if send is not None:
                            self._note_first_text(event)
                            await _tell(send, reply.chunks(index, event))
        answers = [found[index] for index in sorted(found)]
        self._notes["cost"] = reply.cost(answers)
        return answers

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await anyio.sleep(self._limits.keep_alive)
            await _more(send, KEEP_ALIVE)

    def _note_first_text(self, event: Event) -> None:
        if isinstance(event, Committed):
            self._notes.setdefault("first_text_seconds", time.perf_counter() - self._begun)

    def _refusal(self, error: Exception) -> RefusedError:
        refusal = refusal_of(error)
        if refusal.is_ours:
            logger.error("an answer failed", exc_info=error)
        self._notes["error"] = refusal.error["code"]
        return refusal


_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # or nginx would hold the text back
}


async def begin(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Send the head of a response."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _tell(send: Send, chunks: Iterable[Mapping[str, Any]]) -> None:
    for chunk in chunks:
        await _more(send, _event(chunk))


async def _more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _event(values: Mapping[str, Any]) -> bytes:
    return b"data: " + to_json(values) + b"\n\n"
