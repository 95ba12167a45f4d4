"""``OpenAIProposer`` and its config: a model behind an OpenAI-compatible server."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, TypeVar

import anyio
from pydantic import SecretStr, model_validator

from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.loading.config import ModelName
from w2s_chains.backend.loading.load import load_tokens
from w2s_chains.backend.remote.event_loop import all_of, wait_for
from w2s_chains.backend.remote.findings import Findings
from w2s_chains.backend.remote.probe import PROBE, Capabilities, probe, still
from w2s_chains.backend.remote.server import Server, ServerOptions
from w2s_chains.backend.text.tokenizer import warn_of_raw_prompts
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer
from w2s_chains.core.prompts import Prompt, ThoughtFormat
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import CancelledError, ConfigError, RawPromptWarning, ServerError
from w2s_chains.proposers.config import ProposerConfig
from w2s_chains.proposers.openai_candidates import DistinctContinuation, names_by_ids
from w2s_chains.proposers.openai_requests import Continuation, ServedPrompting

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL = 0.05
"""Seconds between checks whether a search that waits for its server was cancelled."""


class OpenAIConfig(ProposerConfig, PromptTemplate, ServerOptions):
    """A model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, OpenAI, ...

    Attributes:
        tokenizer: The model's tokenizer: hub id, local folder or ``embedded:NAME``. If it is given,
            prompts are rendered with its chat template (``chat``), and guides that share the
            vocabulary read token ids, provided that the server returns them. Without it,
            ``chat: true`` makes the server apply the template, so that it can only return whole
            answers.
    """

    type: Literal["openai"] = "openai"
    tokenizer: ModelName | None = None

    @model_validator(mode="after")
    def _variables_need_tokenizer(self) -> Self:
        if self.chat_template_kwargs and self.tokenizer is None:
            raise ValueError(
                "chat_template_kwargs is for chat templates that are rendered here, since not all "
                "servers say what they ignore: give tokenizer, the model's tokenizer"
            )
        return self

    def build(self) -> OpenAIProposer:
        return OpenAIProposer.from_spec(self)


class OpenAIProposer(Proposer):
    """Continue hypotheses through the completions API.

    A hypothesis continues exactly where it stopped: by token ids if the server takes and returns
    them, else by text. The server's capabilities are tested before its first use.

    ``Usage.read_tokens`` is the least that a server with a cache of prefixes must read: a row per
    parent, and for every child its sampled tokens but the last, as the server counts them. A server
    without such a cache reads prompt and text again for every chunk.

    Where the server tells ``top_logprobs``, candidates without replacement (``Expand.distinct``)
    are drawn here from the likeliest tokens, all those of a parent by one call of one token.
    Temperature and filters are applied here, and nothing is drawn from the tail of the distribution
    that the server does not tell. A server without them is refused at the first such request,
    before it samples anything.

    Attributes:
        spec: Where the model is and how it reads a prompt.
        tokenizer: Its tokenizer and prompt template; None without a tokenizer.
        slice_tokens: None, since a chunk of any length is one call.
    """

    slice_tokens = None
    abilities = frozenset({"first", "distinct"})

    def __init__(self, model: str, *, api_key: str | SecretStr | None = None, **options: Any):
        """Connect to a model.

        Args:
            model: The model's name on the server.
            api_key: The key; by default the value of the environment variable ``api_key_env``.
            **options: Fields of ``OpenAIConfig``: base_url, template, chat, system, tokenizer,
                timeout, max_retries, max_concurrency, ...

        Raises:
            ModelNotFoundError: There is no such tokenizer.
            ConfigError: An option is misspelt or out of range, or the key cannot be sent.
        """
        self._adopt(OpenAIConfig(model=model, **options), api_key)

    @classmethod
    def from_spec(cls, spec: OpenAIConfig) -> OpenAIProposer:
        """Connect to the model that ``spec`` describes; raises like the constructor."""
        self = cls.__new__(cls)
        self._adopt(spec, None)
        return self

    def _adopt(self, spec: OpenAIConfig, api_key: str | SecretStr | None) -> None:
        self.spec = spec
        template = PromptTemplate.of(spec)
        self.tokenizer = None if spec.tokenizer is None else load_tokens(spec.tokenizer, template)
        if self.tokenizer is not None:
            warn_of_raw_prompts(self.tokenizer, spec.model_fields_set)
        key = SecretStr(api_key) if isinstance(api_key, str) else api_key
        self._server = Server(spec, key)
        known: dict[str, int] = (
            {} if self.tokenizer is None else self.tokenizer.hf_tokenizer.get_vocab()
        )
        self._model = ServedPrompting(
            server=self._server,
            template=template,
            tokenizer=self.tokenizer,
            vocabulary_size=max(known.values()) + 1 if known else 2**31,
        )
        self._found = Findings(self._probe, self._is_still, lambda can: bool(can.unknown))

    def __repr__(self) -> str:
        return f"OpenAIProposer({self._server.name})"

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do; it is tested once, and again if it may be another server.

        Raises:
            ServerError: The server does not answer.
            ConfigError: ``tokenizer`` is not the server's.
        """
        return wait_for(self._found.get)

    def check_request(self, request: Expand) -> None:
        """Refuse a request that this server cannot answer, before it is sent.

        Raises:
            ServerError: The server does not answer.
            ConfigError: It cannot do what the request needs.
        """
        self._accepted(request, self.capabilities)

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Raise PromptError if the tokenizer or its chat template cannot read the prompt."""
        if self.tokenizer is not None:
            self.tokenizer.prompt_ids(prompt)
            self.tokenizer.check_opens(prompt)

    def thoughts(self, prompt: Prompt) -> ThoughtFormat | None:
        """Return how the chat template writes thoughts; None if it has none, or is not known."""
        if self.tokenizer is None or (form := self.tokenizer.thoughts(prompt)) is None:
            return None
        chat = self.tokenizer.chat
        # A server may leave special tokens out of its texts: no second mark would ever come.
        return None if form.begun and chat is not None and chat.untold else form

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis] | Exception]:
        """Continue hypotheses; the result of a failed request is its error."""
        return wait_for(self._propose, requests)

    async def _propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis] | Exception]:
        def all_cancelled() -> bool:
            return all(request.cancelled() for request in requests)

        can = await _unless(all_cancelled, self._found.get())
        if isinstance(can, Exception):
            return [can] * len(requests)
        answers = await all_of(
            lambda request: _unless(request.cancelled, self._children(request, can)), requests
        )
        if any(isinstance(answer, ServerError) for answer in answers):
            self._found.doubt()
        return answers

    async def _children(self, request: Expand, can: Capabilities) -> list[Hypothesis]:
        try:
            request = self._accepted(request, can)
        except ConfigError:  # perhaps another server has taken its place
            can = await self._found.get(afresh=True)
            request = self._accepted(request, can)
        kind = DistinctContinuation if request.distinct else Continuation
        how = kind(self._model, can, request, self._by_messages(can))
        children = await all_of(how.children, request.hypotheses)
        return [child for own in children for child in own]

    # Capabilities of the server.

    async def _probe(self) -> Capabilities:
        can = await probe(self._server)
        self._check_tokenizer(can)
        if can.completions and not can.seed and "seed" not in can.unknown:
            logger.warning("%s does not keep to seeds: answers differ between calls", self)
        if not self._by_messages(can):
            self._warn_of_plain_turns()
        return can

    async def _is_still(self, can: Capabilities) -> bool:
        return await still(self._server, can)

    def _warn_of_plain_turns(self) -> None:
        """Warn that a chat model's conversations are sent as lines of plain text."""
        chosen = self.tokenizer is not None or "template" in self.spec.model_fields_set
        if self.spec.chat == "auto" and not chosen:
            warnings.warn(
                f"{self._server.name} gets conversations as plain text (role: content), since the "
                "model's chat template is not known here; set tokenizer (the model's name or "
                "folder), chat to true (the server renders; whole answers only), or chat to false "
                "to say that this is meant",
                RawPromptWarning,
                stacklevel=2,
            )

    def _check_tokenizer(self, can: Capabilities) -> None:
        if self.tokenizer is None or not can.token_ids:
            return
        ours = self.tokenizer.hf_tokenizer(PROBE)["input_ids"]
        if tuple(ours) != can.probe_ids:
            raise ConfigError(
                f"tokenizer {self.spec.tokenizer!r} is not the one of {self._server.name}: it "
                f"reads {PROBE!r} as {ours}, the server as {list(can.probe_ids)}; give the model's "
                "own"
            )

    def _accepted(self, request: Expand, can: Capabilities) -> Expand:
        """Return the request as this server can answer it.

        Raises:
            ConfigError: It cannot.
            ServerError: Nobody knows yet whether it can.
        """
        if self._by_messages(can) and request.may_be_whole:
            request = replace(request, chunk_tokens=None)
        if request.distinct:
            self._check_distinct(request, can)
        where, sampling = self._server.name, request.sampling
        wanted = {"top_k": sampling.top_k, "min_p": sampling.min_p or None}
        if request.distinct and request.chunk_tokens == 1:
            wanted = {}  # they are applied here
        for name in (name for name in can.unknown if wanted.get(name) is not None):
            raise ServerError(
                f"whether {where} keeps to {name} could not be found out, and the request needs "
                f"it: {can.unknown[name]}",
                passing=True,
            )
        for name, value in wanted.items():
            if value is not None and not getattr(can, name):
                raise ConfigError(
                    f"{where} does not keep to {name}={value}; leave {name} out, or use another "
                    "server"
                )
        if sampling.repetition_penalty != 1 and not can.repetition_penalty:
            raise ConfigError(
                f"{where} takes no repetition_penalty={sampling.repetition_penalty}; leave it out, "
                "or use another server"
            )
        whole = request.chunk_tokens is None and all(h.parent is None for h in request.hypotheses)
        if self._by_messages(can) and (not whole or request.distinct):
            why = (
                "is chat-only"
                if not can.completions
                else "renders the chat template itself (chat: true without tokenizer)"
            )
            remedy = "a server with /v1/completions" if not can.completions else "give tokenizer"
            raise ConfigError(
                f"{where} {why}, so that it cannot continue a partial answer, which this strategy "
                f"needs; use strategy best_of_n, or {remedy}"
            )
        return request

    def _check_distinct(self, request: Expand, can: Capabilities) -> None:
        """Refuse a request for different tokens that this server's likeliest ones cannot answer.

        Raises:
            ConfigError: They cannot.
            ServerError: Nobody knows yet whether they can.
        """
        where, asked = self._server.name, request.first + request.successors
        local = "leave out distinct, or use a HuggingFaceProposer"
        if "top_logprobs" in can.unknown or ("logprobs" in can.unknown and not can.logprobs):
            why = can.unknown.get("top_logprobs") or can.unknown["logprobs"]
            raise ServerError(
                f"whether {where} tells top_logprobs could not be found out, and candidates "
                f"without replacement (distinct) need them: {why}",
                passing=True,
            )
        if not can.top_logprobs:
            raise ConfigError(
                f"{where} tells no top_logprobs, from which candidates are drawn without "
                "replacement (distinct); use a server whose completions API takes logprobs (vLLM, "
                f"SGLang, llama.cpp), {local}"
            )
        if not can.top_texts and not names_by_ids(self._model, can):
            needed = "give tokenizer" if can.top_ids else "use a server that tells token ids"
            raise ConfigError(
                f"{where} names the tokens of top_logprobs otherwise than they stand in its text, "
                f"so that candidates without replacement (distinct) are not known; {needed}, "
                f"{local}"
            )
        if asked > can.top_logprobs:
            raise ConfigError(
                f"{where} tells the {can.top_logprobs} likeliest tokens at most, but the strategy "
                f"asks for {asked} different candidates (distinct); ask for at most "
                f"{can.top_logprobs} (candidates, successors), {local}"
            )
        if request.sampling.repetition_penalty != 1:
            raise ConfigError(
                f"repetition_penalty={request.sampling.repetition_penalty} cannot be applied to "
                f"the top_logprobs of {where}, which candidates without replacement (distinct) are "
                f"drawn from; leave repetition_penalty out, {local}"
            )

    def _by_messages(self, can: Capabilities) -> bool:
        return not can.completions or (self.spec.chat is True and self.tokenizer is None)


async def _unless(cancelled: Callable[[], bool], work: Awaitable[T]) -> T | Exception:
    """Return the result of ``work``, or its error; end it soon after ``cancelled`` is true."""

    async def watch() -> None:
        while not cancelled():
            await anyio.sleep(_POLL)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            return await work
        except Exception as error:
            return error
        finally:
            group.cancel_scope.cancel()
    return CancelledError("the search was cancelled")
