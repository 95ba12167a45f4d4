"""``LangChainProposer`` and its config: any LangChain LLM or chat model as the proposer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from pydantic import Field

from w2s_chains.backend.chat.prompt_template import Template
from w2s_chains.backend.remote.event_loop import released
from w2s_chains.backend.remote.langchain_models import model_error, named_chat_model
from w2s_chains.backend.remote.replies import CHARACTER_TOKENS, too_long
from w2s_chains.backend.remote.threads import ThreadCall, Threads
from w2s_chains.backend.text.stop_strings import find_stop
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import DEFAULT_SAMPLING, SamplingParams, noise_key
from w2s_chains.errors import CancelledError, ConfigError, ProposerError
from w2s_chains.proposers.config import ProposerConfig

_POLL = 0.05
"""Seconds between checks whether a search that waits for its model was cancelled."""
_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "max_tokens": ("max_tokens", "max_new_tokens", "max_output_tokens", "num_predict"),
    "seed": ("seed",),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "top_k": ("top_k",),
    "min_p": ("min_p",),
}
"""The names that models use for our settings; a field of that name shows that it is accepted."""
_SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_FINISHED = ("finish_reason", "stop_reason", "done_reason")
_AT_LENGTH = ("length", "max_tokens")
_REFUSED = ("content_filter", "safety", "recitation", "refusal")
_COUNTED = ("completion_tokens", "output_tokens")
_READ = ("prompt_tokens", "input_tokens")
_SPARE = CHARACTER_TOKENS
"""Extra tokens that a server (llama.cpp) may return to complete a character."""


class LangChainConfig(ProposerConfig):
    """A chat model of any provider that LangChain supports; for whole answers, as in best_of_n.

    Attributes:
        model: Provider and name, such as "ollama:llama3.2" or "anthropic:claude-sonnet-4-5"; the
            API key is read where the provider's package looks for it.
        template: Text in which ``{prompt}`` is replaced literally.
        timeout: The most seconds that one call may take.
        max_concurrency: The most calls to make at once.
    """

    type: Literal["langchain"] = "langchain"
    model: str = Field(min_length=1)
    template: Template = "{prompt}"
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    max_concurrency: int = Field(default=16, ge=1)

    def build(self) -> LangChainProposer:
        return LangChainProposer.from_spec(self)


class LangChainProposer(Proposer):
    """Get whole answers from any LangChain model, or chunks from an LLM that limits their length.

    A call passes ``max_tokens`` and ``seed`` if the model has such fields, and other sampling
    settings if they differ from their defaults; everything else stays as set on the model. A model
    without a seed answers differently at every call. Token counts are the model's own; if it
    reports none, words are counted. ``Usage.read_tokens`` is the least that a server with a cache
    of prefixes must read: a row per parent, and for every child its sampled tokens but the last.

    Attributes:
        model: The LLM or chat model.
        spec: The config that names it; None if the model itself was given.
        slice_tokens: None, since a chunk of any length is one call.
    """

    slice_tokens = None
    abilities = frozenset({"first"})

    def __init__(
        self,
        model: BaseLLM | BaseChatModel,
        *,
        template: str = "{prompt}",
        arguments: Mapping[str, str] | None = None,
        timeout: float = 120.0,
        max_concurrency: int = 16,
    ) -> None:
        """Wrap a model.

        Args:
            model: The model itself, not a chain.
            template: Text in which ``{prompt}`` is replaced.
            arguments: Names of call arguments that the model has no field for, such as
                ``{"max_tokens": "num_ctx"}``.
            timeout: The most seconds that one call may take. After that the search fails, and the
                call is abandoned.
            max_concurrency: The most calls to make at once.

        Raises:
            ConfigError: ``model`` is not such a model, or the template has no ``{prompt}``.
        """
        kinds: Any = (BaseLLM, BaseChatModel)
        if not isinstance(model, kinds):
            raise ConfigError(
                f"a LangChainProposer needs a LangChain LLM or chat model, not {model!r}; give the "
                "model itself, without what was bound to it or chained after it"
            )
        if "{prompt}" not in template:
            raise ConfigError(f"template {template!r} has no '{{prompt}}' to put the prompt into")
        self.model = model
        fields = type(model).model_fields
        known = {ours: [n for n in names if n in fields] for ours, names in _ARGUMENTS.items()}
        self._named = {ours: names[0] for ours, names in known.items() if names}
        self._named |= arguments or {}
        self._template = template
        self._threads = Threads(max_concurrency, timeout)
        self.spec: LangChainConfig | None = None

    @classmethod
    def from_spec(cls, spec: LangChainConfig) -> LangChainProposer:
        """Wrap the chat model that ``spec`` names.

        Raises:
            ConfigError: A package is missing, or there is no such model.
        """
        self = cls(
            named_chat_model(spec.model),
            template=spec.template,
            timeout=spec.timeout,
            max_concurrency=spec.max_concurrency,
        )
        self.spec = spec
        return self

    def __repr__(self) -> str:
        return f"LangChainProposer({type(self.model).__name__})"

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise ConfigError if a setting would have no effect on this model."""
        for name in _SETTINGS:
            value = getattr(sampling, name)
            if value != getattr(DEFAULT_SAMPLING, name) and name not in self._named:
                raise ConfigError(
                    f"{name}={value!r} has no effect on {self!r}; leave it out and set it on the "
                    f"model itself, or name the argument of its calls: arguments={{{name!r}: ...}}"
                )

    def check_request(self, request: Expand) -> None:
        """Raise ConfigError if this model cannot answer a request, before it is called."""
        if (error := self._refusal(_as_whole(request))) is not None:
            raise error

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis] | Exception]:
        """Continue hypotheses; the result of a failed request is its error."""
        requests = list(map(_as_whole, requests))
        refused = [self._refusal(request) for request in requests]
        calls = [
            [] if error else self._start(request)
            for request, error in zip(requests, refused, strict=True)
        ]
        with released():
            return [
                error or self._collect(request, own)
                for request, error, own in zip(requests, refused, calls, strict=True)
            ]

    def _refusal(self, request: Expand) -> Exception | None:
        if request.chunk_tokens is None and all(h.parent is None for h in request.hypotheses):
            return None
        if isinstance(self.model, BaseChatModel):
            why = "is a chat model, which cannot continue a partial answer"
        elif "max_tokens" not in self._named:
            why = "has no field that limits the tokens of an answer, without which it has no chunks"
        else:
            return None
        return ConfigError(
            f"{self!r} {why}; use strategy best_of_n, or an LLM that takes max_tokens (name the "
            "argument if it is called otherwise: arguments={'max_tokens': ...})"
        )

    def _start(self, request: Expand) -> list[ThreadCall[Hypothesis]]:
        children: list[Callable[[], Hypothesis]] = [
            partial(self._child, request, h, stream)
            for h in request.hypotheses
            for stream in request.streams(h)
        ]
        for h in request.hypotheses:
            h.usage.read_tokens += 1
        return [self._threads.start(child) for child in children]

    def _collect(
        self, request: Expand, calls: Sequence[ThreadCall[Hypothesis]]
    ) -> list[Hypothesis] | Exception:
        error: Exception | None = None
        pending = {call.future for call in calls}
        while pending and error is None:
            done, pending = wait(pending, timeout=_POLL, return_when=FIRST_EXCEPTION)
            failed = next((e for future in done if (e := future.exception())), None)
            if failed is not None:
                error = model_error(failed, self.model, repr(self), ProposerError, self.spec)
            elif request.cancelled():
                error = CancelledError("the search was cancelled")
            elif any(call.late for call in calls):
                error = ProposerError(
                    f"{self!r} gave no answer within {self._threads.timeout:g} seconds; raise "
                    "timeout, or give the model itself a shorter one with retries"
                )
        if error is not None:
            for call in calls:
                call.abandon()
            return error
        return [call.future.result() for call in calls]

    # One call.

    def _child(self, request: Expand, h: Hypothesis, stream: int) -> Hypothesis:
        sampling = request.sampling
        left = sampling.max_tokens - h.n_tokens
        wanted = left if request.chunk_tokens is None else min(request.chunk_tokens, left)
        seed, _ = noise_key(request.seed, repr(h.prompt), stream, h.n_tokens)
        values = {
            name: getattr(sampling, name)
            for name in _SETTINGS
            if getattr(sampling, name) != getattr(DEFAULT_SAMPLING, name)
        } | {"max_tokens": wanted, "seed": seed & 0x7FFFFFFF}
        text, told = self._call(
            h, {self._named[name]: value for name, value in values.items() if name in self._named}
        )
        finish = next((str(told[name]).lower() for name in _FINISHED if told.get(name)), None)
        count = _count(told, _COUNTED)
        if finish in _REFUSED:
            raise ProposerError(f"{self!r} ended an answer with {finish!r}, which is no answer")
        if request.chunk_tokens is not None and ((finish is None and count is None) or not text):
            lacks = "neither a finish reason nor a count of tokens" if text else "no text"
            raise ProposerError(
                f"{self!r} gave {lacks} for a chunk of {wanted} tokens; use strategy best_of_n"
            )
        if "max_tokens" in self._named and count is not None and count > wanted + _SPARE:
            raise ProposerError(
                f"{self!r} was asked for {wanted} tokens and gave {count}; its calls do not take "
                f"{self._named['max_tokens']!r}, name the right argument (arguments=...)"
            )
        limit = wanted + _SPARE if "max_tokens" in self._named else count
        if limit is not None and (wrong := too_long(text, limit if count is None else count)):
            raise ProposerError(f"{self!r} gave {wrong}; its count of tokens or its text is wrong")
        at_length = finish in _AT_LENGTH if finish is not None else (count or 0) >= wanted
        if at_length and not text and wanted > CHARACTER_TOKENS:
            raise ProposerError(
                f"{self!r} gave no text for {wanted} tokens; if the model thinks before it "
                "answers, raise max_tokens"
            )
        tokens = len(text.split()) if count is None else count
        if at_length and request.chunk_tokens is not None:
            tokens = wanted
        h.usage.proposed_tokens += tokens
        h.usage.read_tokens += max(tokens - 1, 0)
        if h.parent is None:  # later calls send the same prompt again
            h.usage.prompt_tokens = max(h.usage.prompt_tokens, _count(told, _READ) or 0)
        if "max_tokens" in self._named:
            tokens = min(tokens, wanted)
        before = h.response
        if (cut := find_stop(sampling.stop, before, text)) is not None:
            anchor = next(a for a in h.ancestors() if a.n_chars <= cut)
            return anchor.extend(
                (before + text)[anchor.n_chars : cut],
                finish_reason="stop",
                stream=stream,
                n_tokens=h.n_tokens + tokens - anchor.n_tokens,
            )
        full = request.chunk_tokens is None or h.n_tokens + tokens >= sampling.max_tokens
        reason = "eos" if not at_length else "length" if full else None
        return h.extend(text, finish_reason=reason, stream=stream, n_tokens=tokens)

    def _call(self, h: Hypothesis, named: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Return an answer and the metadata that the model reports with it."""
        prompt = h.prompt
        if isinstance(self.model, BaseChatModel):
            turns = [_message(turn.role, turn.plain_text) for turn in prompt.turns]
            if prompt.text is not None:
                turns = [_message("user", self._template.replace("{prompt}", prompt.text))]
            result = self.model.generate([turns], **named)
        else:
            text = self._template.replace("{prompt}", prompt.plain_text) + h.response
            result = self.model.generate([text], **named)
        answer: Any = result.generations[0][0]
        told: dict[str, Any] = dict((result.llm_output or {}).get("token_usage") or {})
        told |= answer.generation_info or {}
        message = getattr(answer, "message", None)
        if isinstance(message, AIMessage):
            told |= {**message.response_metadata, **(message.usage_metadata or {})}
        return answer.text, told


def _as_whole(request: Expand) -> Expand:
    """Return a request for a whole answer, where chunks only serve streaming."""
    return replace(request, chunk_tokens=None) if request.may_be_whole else request


def _count(told: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """Return the first count of tokens that a model reports under one of these names, if any.

    Raises:
        ProposerError: It is no count.
    """
    value = next((told[name] for name in names if told.get(name)), None)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < 2**31 or value != int(value):
        raise ProposerError(f"a model reports {str(value)[:40]!r} tokens, which is no count")
    return int(value)


def _message(role: str, content: str) -> BaseMessage:
    kinds = {"system": SystemMessage, "assistant": AIMessage}
    return kinds.get(role, HumanMessage)(content)
