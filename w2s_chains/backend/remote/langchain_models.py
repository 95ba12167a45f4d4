"""LangChain's models: one by its name in a config, and what may be told of their errors."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from pydantic import SecretStr

from w2s_chains.backend.remote.threads import seconds_left
from w2s_chains.errors import ConfigError, ServerError, W2SError, brief

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

_MOST_BYTES = 2**22
"""Bytes of one reply to a model of LangChain that talks to a server by OpenAI's package.

A million tokens. Several calls at once may each hold as much.
"""


def named_chat_model(name: str, **options: Any) -> BaseChatModel:
    """Call ``langchain.chat_models.init_chat_model`` with a name such as "ollama:llama3.2".

    Only providers in LangChain's own table are imported. The user's environment decides where they
    send requests, and with which key; a config cannot redirect them.

    Raises:
        ConfigError: The package langchain or the provider's package is not installed, or LangChain
            refuses the name.
    """
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the chat model {name!r} needs the package langchain, and its provider's package; "
            "run: pip install langchain langchain-openai (or another provider)"
        ) from error
    make = cast(Any, init_chat_model)  # one of its overloads has no type
    try:
        model = make(name, **options)
        if any(base.__name__ == "BaseChatOpenAI" for base in type(model).__mro__):
            model = make(name, **options, **_bounded_clients())
        return model
    except Exception as error:  # providers raise exceptions of any type
        raise ConfigError(
            f"LangChain cannot make a chat model of {name!r}, which should be provider:model as in "
            f"'ollama:llama3.2': {brief(error)}"
        ) from error


def model_error(
    error: BaseException, model: Any, name: str, kind: type[W2SError], spec: object = None
) -> Exception:
    """Return the error to raise for one that a LangChain model has raised.

    A model that the user has made raises its own errors. But no error may hold its key, which
    servers repeat, and none may be a StopIteration, which ends coroutines and generators.

    Args:
        error: What the model has raised.
        model: The model, or a chain of models.
        name: Its name in messages.
        kind: The class of our errors.
        spec: The config that names the model; its errors are always ours.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, W2SError):
            # The traceback of a model that we made holds pieces of the reply.
            return cause if spec is None else cause.with_traceback(None)
        cause = cause.__cause__
    text = told = f"{type(error).__name__}: {error}"
    for secret in sorted(_secrets(model), key=len, reverse=True):
        text = text.replace(secret, "***")
    stops = isinstance(error, StopIteration | StopAsyncIteration)
    if isinstance(error, Exception) and spec is None and not stops and text == told:
        return error
    return kind(f"{name} failed: {brief(text)}")


def _secrets(model: Any, depth: int = 4) -> set[str]:
    """Return the keys that a model, or the models of a chain, hold."""
    found: set[str] = set()
    for value in getattr(model, "__dict__", {}).values():
        for one in value if isinstance(value, list | tuple) else [value]:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(one, SecretStr):
                found.add(one.get_secret_value())
            elif depth and hasattr(cast(Any, one), "invoke"):
                found |= _secrets(one, depth - 1)
    return found - {""}


def _bounded_clients() -> dict[str, Any]:
    """Return HTTP clients for OpenAI's package: no redirects, and replies that are bounded."""
    openai: Any = importlib.import_module("openai")

    def prepare(request: Any) -> None:
        request.headers["Accept-Encoding"] = "identity"
        if (left := _in_time(request)) < math.inf:
            limits = request.extensions.get("timeout", {})
            request.extensions["timeout"] = {
                kind: left if (own := limits.get(kind)) is None else min(left, own)
                for kind in ("connect", "read", "write", "pool")
            }

    async def prepare_async(request: Any) -> None:
        prepare(request)

    async def bound_async(response: Any) -> None:
        _bound(response)

    return {
        "http_client": openai.DefaultHttpxClient(
            follow_redirects=False, event_hooks={"request": [prepare], "response": [_bound]}
        ),
        "http_async_client": openai.DefaultAsyncHttpxClient(
            follow_redirects=False,
            event_hooks={"request": [prepare_async], "response": [bound_async]},
        ),
    }


def _in_time(request: Any) -> float:
    """Return for how many seconds somebody waits for the reply.

    Raises:
        ServerError: Nobody does.
    """
    if (left := seconds_left()) <= 0:
        raise ServerError(
            f"the server {request.url.host} has not answered within the time limit; raise timeout"
        )
    return left


def _bound(response: Any) -> None:
    """Refuse a redirect and a compressed reply; fail once the body is too long or too late."""
    host = response.request.url.host
    if response.has_redirect_location:
        raise ServerError(
            f"the server {host} redirects to {response.next_request.url.host}, which would get the "
            "prompt; name that one in the environment if you trust it",
            response.status_code,
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ServerError(f"the server {host} compresses its reply, which the request forbids")

    def counted(length: int) -> None:
        response.extensions["w2s_read"] = response.extensions.get("w2s_read", 0) + length
        if response.extensions["w2s_read"] > _MOST_BYTES:
            raise ServerError(
                f"the reply of the server {host} is longer than {_MOST_BYTES:,} bytes"
            )
        _in_time(response.request)

    package = importlib.import_module(type(response).__module__.partition(".")[0])
    response.stream = _stream(package)(response.stream, counted)


def _stream(package: Any) -> Any:
    """Return a class of streams for httpx or httpx2 (``package``) that tells what it passes on."""

    class Counted(package.SyncByteStream, package.AsyncByteStream):
        def __init__(self, stream: Any, counted: Callable[[int], None]) -> None:
            self.stream, self.counted = stream, counted

        def __iter__(self) -> Any:
            for part in self.stream:
                self.counted(len(part))
                yield part

        async def __aiter__(self) -> Any:
            async for part in self.stream:
                self.counted(len(part))
                yield part

        def close(self) -> None:
            self.stream.close()

        async def aclose(self) -> None:
            await self.stream.aclose()

    return Counted
