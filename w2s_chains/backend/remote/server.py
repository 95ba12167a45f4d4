"""``Server``: call a model behind an OpenAI-compatible API, with time-outs, retries and a limit."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
from pydantic import Field, SecretStr, ValidationError, field_validator

from w2s_chains.backend.remote.event_loop import close_with
from w2s_chains.backend.remote.replies import Reply
from w2s_chains.core.configs import Config
from w2s_chains.errors import ConfigError, ServerError, brief

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 30.0
"""Most seconds between two attempts, even if the server asks for more."""
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""HTTP status codes after which another attempt may succeed."""


class ServerOptions(Config):
    """Which server and model to call, with which key, time-out and retries.

    Attributes:
        base_url: The API's URL, such as ``http://localhost:8000/v1``.
        model: The model's name on the server.
        api_key_env: The environment variable that holds the key, if the server needs one. If it is
            not set, api.openai.com gets OPENAI_API_KEY and no other host gets a key: somebody
            else's config must not send your key to a stranger.
        timeout: Most seconds for one call.
        max_retries: Most retries after a time-out, a lost connection, a broken reply, or an HTTP
            status that may pass (429, 500, 503, ...).
        backoff: Seconds before the first retry, about doubled before each further one; more if the
            server asks for it (Retry-After), but 30 at most.
        max_concurrency: Most calls at the same time.
    """

    base_url: str = "https://api.openai.com/v1"
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    max_retries: int = Field(default=3, ge=0, le=20)
    backoff: float = Field(default=0.5, ge=0, le=_LONGEST_WAIT, allow_inf_nan=False)
    max_concurrency: int = Field(default=16, ge=1)

    @property
    def key_variable(self) -> str | None:
        """The environment variable that should hold the key."""
        if self.api_key_env is None and urlsplit(self.base_url).hostname == "api.openai.com":
            return "OPENAI_API_KEY"
        return self.api_key_env

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        # Neither message repeats the value: it may hold a secret.
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url must begin with http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "base_url has a user, a password or a query in it, which would be logged; put the "
                "key into an environment variable and name that in api_key_env"
            )
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError(
                "api_key_env must be the name of an environment variable, such as OPENAI_API_KEY; "
                "the key itself never belongs into a config"
            )
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """The result of one call.

    Attributes:
        reply: The reply; None if the call failed.
        problem: What went wrong, without secrets.
        status: The HTTP status, if there was one.
        may_pass: Whether another attempt may succeed.
        asked: Seconds that the server asks us to wait.
    """

    reply: Reply | None = None
    problem: str = ""
    status: int | None = None
    may_pass: bool = False
    asked: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connections:
    """Everything that belongs to one event loop.

    Attributes:
        loop: The event loop.
        client: The client of the package openai.
        room: Limits the calls under way at once.
    """

    loop: asyncio.AbstractEventLoop
    client: Any
    room: anyio.CapacityLimiter


def _may_pass(attempt: _Attempt) -> bool:
    return attempt.may_pass


def _last_attempt(state: Any) -> _Attempt:
    """Return the latest attempt from tenacity's state."""
    return state.outcome.result()


class Server:
    """Calls one model. All coroutines run on the event loop of ``remote.event_loop``."""

    def __init__(self, options: ServerOptions, api_key: SecretStr | None = None) -> None:
        """Prepare to call; no connection is opened yet.

        Args:
            options: Which server and model, and how to call them.
            api_key: The key; by default the value of the environment variable.

        Raises:
            ConfigError: The package openai (or tenacity) is not installed.
        """
        try:
            import openai
            import tenacity
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"a model server needs the package {error.name}; run: pip install "
                "'w2s_chains[servers]'"
            ) from error
        self._openai, self._tenacity = openai, tenacity
        self.options = options
        given = os.environ.get(options.key_variable or "") if api_key is None else None
        self._key = api_key or (SecretStr(given) if given else None)
        self._open: _Connections | None = None

    @property
    def name(self) -> str:
        """The server and the model, for messages."""
        return f"{self.options.base_url} (model {self.options.model!r})"

    async def complete(self, body: Mapping[str, Any], retries: int | None = None) -> Reply:
        """Continue a prompt.

        Args:
            body: Fields of the completions API, without ``model``.
            retries: Most retries; by default as in the options.

        Raises:
            ServerError: The call failed; ``status`` is the HTTP status if there was one.
        """
        return await self._call("completions", body, Reply.parse, retries)

    async def chat(self, body: Mapping[str, Any], retries: int | None = None) -> Reply:
        """Answer messages; arguments and errors are those of ``complete``."""
        return await self._call("chat.completions", body, Reply.parse_chat, retries)

    async def _call(
        self,
        api: str,
        body: Mapping[str, Any],
        parse: Callable[[bytes], Reply],
        retries: int | None,
    ) -> Reply:
        most = self.options.max_retries if retries is None else retries
        retrying = self._tenacity.AsyncRetrying(
            retry=self._tenacity.retry_if_result(_may_pass),
            stop=self._tenacity.stop_after_attempt(most + 1),
            wait=self._wait,
            before_sleep=self._log,
            retry_error_callback=_last_attempt,
        )
        found: _Attempt = await retrying(self._attempt, api, body, parse)
        if found.reply is not None:
            return found.reply
        count = retrying.statistics["attempt_number"]
        tries = f" after {count} attempts" if count > 1 else ""
        raise ServerError(
            f"{self.name} failed{tries}: {found.problem}{self._remedy(found.status)}", found.status
        )

    async def _attempt(
        self, api: str, body: Mapping[str, Any], parse: Callable[[bytes], Reply]
    ) -> _Attempt:
        # Errors are returned, not raised: a traceback would hold the request's headers.
        try:
            there = self._connected()
            async with there.room:
                with anyio.fail_after(self.options.timeout):
                    return _Attempt(reply=parse(await self._post(there.client, api, body)))
        except Exception as error:
            return self._failed(error)

    def _wait(self, state: Any) -> float:
        """Return the seconds to wait before the next attempt."""
        backoff = self.options.backoff
        longer = self._tenacity.wait_exponential_jitter(backoff, jitter=backoff / 2)(state)
        return min(max(longer, _last_attempt(state).asked), _LONGEST_WAIT)

    def _log(self, state: Any) -> None:
        logger.info("%s: %s; trying again", self.name, _last_attempt(state).problem)

    def _connected(self) -> _Connections:
        """Return the connections of the running event loop; a forked process has another loop."""
        loop = asyncio.get_running_loop()
        if self._open is None or self._open.loop is not loop:
            client = self._openai.AsyncOpenAI(
                base_url=self.options.base_url,
                api_key="no-key" if self._key is None else self._key.get_secret_value(),
                max_retries=0,  # we retry ourselves
                timeout=self.options.timeout,
            )
            close_with(self, client.close)
            room = anyio.CapacityLimiter(self.options.max_concurrency)
            self._open = _Connections(loop=loop, client=client, room=room)
        return self._open

    async def _post(self, client: Any, api: str, body: Mapping[str, Any]) -> bytes:
        for part in api.split("."):
            client = getattr(client, part)
        known = ("prompt", "messages")
        fields = {name: value for name, value in body.items() if name in known}
        rest = {name: value for name, value in body.items() if name not in known}
        raw = await client.with_raw_response.create(
            model=self.options.model, **fields, extra_body=rest
        )
        return raw.content

    def _failed(self, error: Any) -> _Attempt:
        """Describe an error, without secrets."""
        status: int | None = None
        asked = 0.0
        if isinstance(error, TimeoutError | self._openai.APITimeoutError):
            problem = f"no answer within {self.options.timeout:g} seconds"
        elif isinstance(error, self._openai.APIStatusError):
            status = error.status_code
            body: Any = error.body
            said = cast(dict[str, Any], body).get("message") if isinstance(body, dict) else None
            problem = f"HTTP status {status}: {said or error.response.text}"
            try:
                asked = float(error.response.headers.get("retry-after", 0))
            except ValueError:  # the header may hold a date instead
                asked = 0.0
        elif isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"a broken reply ({where + ': ' if where else ''}{first['msg']})"
        else:
            problem = f"{error} ({type(error.__cause__ or error).__name__})"
        passing = (TimeoutError, ValidationError, self._openai.APIConnectionError)
        return _Attempt(
            problem=brief(self._redacted(problem)),
            status=status,
            may_pass=status in _PASSING if status else isinstance(error, passing),
            asked=asked,
        )

    def _redacted(self, text: str) -> str:
        return text if self._key is None else text.replace(self._key.get_secret_value(), "***")

    def _remedy(self, status: int | None) -> str:
        if status in (401, 403):
            variable = self.options.key_variable
            if self._key is not None:
                return "; replace the key" + (f" in {variable}" if variable else "")
            if variable is None:
                return "; set api_key_env to the name of an environment variable with the key"
            return f"; set the key in the environment variable {variable}"
        if status == 404:
            return "; check base_url and model"
        if status == 500:
            return "; the log of the server says more"
        if status is None or status in _PASSING:
            return "; check that the server runs, or raise timeout, max_retries or backoff"
        return ""
