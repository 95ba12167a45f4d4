"""``Server``: call a model behind an OpenAI-compatible API, with time-outs, retries and a limit."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import anyio
import httpx
from pydantic import Field, SecretStr, ValidationError, field_validator

from w2s_chains.backend.remote.credentials import OPENAI, Credentials, named_by_environment
from w2s_chains.backend.remote.event_loop import close_with
from w2s_chains.backend.remote.http import BadResponseError, post
from w2s_chains.backend.remote.replies import Asked, BrokenReplyError, Reply
from w2s_chains.core.configs import Config
from w2s_chains.errors import PromptError, ServerError, brief

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 30.0
"""Most seconds between two attempts, unless the server asks for more."""
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""HTTP status codes after which another attempt may succeed."""


class ServerOptions(Config):
    """Which server and model to call, with which key, time-out and retries.

    Attributes:
        base_url: The API's URL, such as ``http://localhost:8000/v1``.
        model: The model's name on the server.
        api_key_env: The environment variable that holds the key, if the server needs one. If it is
            not set, only the server that the environment itself names (OPENAI_BASE_URL, by default
            https://api.openai.com) gets OPENAI_API_KEY, OPENAI_ORG_ID, OPENAI_PROJECT_ID and
            OPENAI_CUSTOM_HEADERS: somebody else's config must not send them to a stranger.
        timeout: Most seconds for one call, from its first byte to its last.
        max_retries: Most retries after a time-out, a lost connection, a broken reply, or an HTTP
            status that may pass (429, 500, 503, ...).
        backoff: Seconds before the first retry, about doubled before each further one, 30 at most;
            more if the server asks for it (Retry-After), but a call fails at once if that is more
            than ``timeout``.
        max_concurrency: Most calls at the same time.
    """

    base_url: str = OPENAI
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    max_retries: int = Field(default=3, ge=0, le=20)
    backoff: float = Field(default=0.5, ge=0, le=_LONGEST_WAIT, allow_inf_nan=False)
    max_concurrency: int = Field(default=16, ge=1)

    @property
    def key_variable(self) -> str | None:
        """The environment variable that should hold the key."""
        if self.api_key_env is None and named_by_environment(self.base_url):
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
        remedy: What may help against it.
        status: The HTTP status, if there was one.
        again: Whether another attempt may succeed.
        passing: Whether the same call may succeed later, so that the failure tells nothing about
            what the server can do.
        asked: Seconds that the server asks us to wait.
    """

    reply: Reply | None = None
    problem: str = ""
    remedy: str = ""
    status: int | None = None
    again: bool = False
    passing: bool = False
    asked: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Connections:
    """Everything that belongs to one event loop.

    Attributes:
        loop: The event loop.
        client: The HTTP client.
        room: Limits the calls under way at once.
    """

    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    room: anyio.CapacityLimiter


class Server:
    """Calls one model. All coroutines run on the event loop of ``remote.event_loop``."""

    def __init__(self, options: ServerOptions, api_key: SecretStr | None = None) -> None:
        """Prepare to call; no connection is opened yet.

        Args:
            options: Which server and model, and how to call them.
            api_key: The key; by default the value of the environment variable.

        Raises:
            ConfigError: The key cannot be sent in a request.
        """
        self.options = options
        self._credentials = Credentials(options.base_url, api_key, options.key_variable)
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
            PromptError: The prompt cannot be sent as UTF-8.
        """
        return await self._call("completions", body, Reply.parse, retries)

    async def chat(self, body: Mapping[str, Any], retries: int | None = None) -> Reply:
        """Answer messages; arguments and errors are those of ``complete``."""
        return await self._call("chat/completions", body, Reply.parse_chat, retries)

    async def _call(
        self,
        api: str,
        body: Mapping[str, Any],
        parse: Callable[[bytes, Asked], Reply],
        retries: int | None,
    ) -> Reply:
        most = self.options.max_retries if retries is None else retries
        asked = Asked.of(body)
        try:
            content = json.dumps({"model": self.options.model, **body}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the prompt has the character {error.object[error.start]!r}, half of a surrogate "
                "pair, which UTF-8 cannot represent; remove it"
            ) from None
        attempt = 0
        while True:
            found = await self._attempt(api, content, asked, parse)
            if found.reply is not None:
                return found.reply
            if not found.again or attempt == most:
                break
            logger.info("%s: %s; trying again", self.name, found.problem)
            await anyio.sleep(max(found.asked, self._backoff(attempt)))
            attempt += 1
        tries = f" after {attempt + 1} attempts" if attempt else ""
        raise ServerError(
            f"{self.name} failed{tries}: {found.problem}{found.remedy}",
            found.status,
            passing=found.passing,
        )

    def _backoff(self, attempt: int) -> float:
        """Return the seconds to wait after an attempt."""
        longer = self.options.backoff * (2**attempt + random.random() / 2)
        return min(longer, _LONGEST_WAIT)

    async def _attempt(
        self, api: str, content: bytes, asked: Asked, parse: Callable[[bytes, Asked], Reply]
    ) -> _Attempt:
        # Errors are returned, not raised: a traceback would hold the request's headers.
        url = f"{self.options.base_url}/{api}"
        try:
            there = self._connected()
            async with there.room:
                with anyio.fail_after(self.options.timeout):
                    body = await post(there.client, url, content, asked.most_bytes)
                return _Attempt(reply=parse(body, asked))
        except Exception as error:
            return self._failed(error)

    def _connected(self) -> _Connections:
        """Return the connections of the running event loop; a forked process has another loop."""
        loop = asyncio.get_running_loop()
        if self._open is None or self._open.loop is not loop:
            most = self.options.max_concurrency
            client = httpx.AsyncClient(
                headers={"Accept-Encoding": "gzip", **self._credentials.headers()},
                timeout=None,  # ``timeout`` bounds the whole call
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=most),
                follow_redirects=False,
            )
            close_with(self, client.aclose)
            room = anyio.CapacityLimiter(most)
            self._open = _Connections(loop=loop, client=client, room=room)
        return self._open

    def _failed(self, error: Exception) -> _Attempt:
        """Describe an error, without secrets."""
        options = self.options
        status = error.status if isinstance(error, BadResponseError) else None
        asked = error.asked if isinstance(error, BadResponseError) else 0.0
        lost = isinstance(error, TimeoutError | httpx.TransportError)
        again = lost or status in _PASSING
        passing = again and status != 500
        remedy = self._remedy(status) if lost or status else ""
        if isinstance(error, TimeoutError):
            problem = f"no answer within {options.timeout:g} seconds"
        elif isinstance(error, BadResponseError):
            said = _message(str(error))
            problem = (
                said if status is None or 300 <= status < 400 else (f"HTTP status {status}: {said}")
            )
        elif isinstance(error, ValidationError | BrokenReplyError):
            again, problem = True, str(error)
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(map(str, first["loc"]))
                problem = f"{where + ': ' if where else ''}{first['msg']}"
                passing = first["type"] == "json_invalid"  # cut off on the way
            problem = f"a broken reply ({problem})"
            remedy = f"; check that it speaks the OpenAI API{self._without_v1()}"
        elif "Receive buffer too long" in str(error):
            problem, again = "the headers of its reply are longer than 100 KiB", False
        else:
            problem = f"{error} ({type(error.__cause__ or error).__name__})"
        if asked > options.timeout:
            again = False
            remedy = (
                f"; it asks to wait {asked:.0f} seconds (Retry-After), more than the timeout of "
                f"{options.timeout:g}: try again later, or raise timeout"
            )
        return _Attempt(
            problem=brief(self._credentials.redacted(problem)),
            remedy=remedy,
            status=status,
            again=again,
            passing=passing,
            asked=asked,
        )

    def _without_v1(self) -> str:
        """Return a hint if the URL lacks the path that nearly all servers have."""
        if urlsplit(self.options.base_url).path:
            return ""
        return f"; base_url has no path, most servers have theirs at {self.options.base_url}/v1"

    def _remedy(self, status: int | None) -> str:
        if status in (401, 403):
            variable = self.options.key_variable
            if self._credentials.has_key:
                return "; replace the key" + (f" in {variable}" if variable else "")
            if variable is None:
                return "; set api_key_env to the name of an environment variable with the key"
            return f"; set the key in the environment variable {variable}"
        if status in (404, 405):
            return f"; check base_url and model{self._without_v1()}"
        if status == 500:
            return "; the log of the server says more"
        if status is None or status in _PASSING:
            return "; check that the server runs, or raise timeout, max_retries or backoff"
        return ""


def _message(body: str) -> str:
    """Return what an error says: OpenAI's ``error.message``, or the text as it is."""
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body
    for _ in range(2):
        if not isinstance(found, dict):
            break
        values = cast("dict[str, Any]", found)
        found = values.get("error", values.get("message", values.get("detail", values)))
    return found if isinstance(found, str) else body
