"""``create_app``: the routes of the server, and what stands before all of them."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Any

import anyio
from anyio.to_thread import run_sync
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from w2s_chains.serving.answers import Answering, Call
from w2s_chains.serving.catalog import Catalog, Served
from w2s_chains.serving.limits import Gate, Keys, Limits
from w2s_chains.serving.refusals import RefusedError, refusal_of
from w2s_chains.serving.requests import (
    AnyRequest,
    ChatRequest,
    CompletionRequest,
    read_json,
    read_request,
)
from w2s_chains.serving.telemetry import Metrics, log_request
from w2s_chains.tracing.page import playground

logger = logging.getLogger(__name__)

BODY_SECONDS = 30.0
"""The time that a client has to send its request."""


def create_app(
    models: Sequence[Served],
    limits: Limits | None = None,
    keys: Keys | None = None,
    origins: Sequence[str] = (),
) -> FastAPI:
    """Make a server for models.

    Args:
        models: What it serves.
        limits: What it takes on.
        keys: The keys of its clients; by default everybody may ask.
        origins: Web pages of other hosts whose scripts may ask it (CORS); "*" for all.

    Returns:
        The app, with ``state.catalog``, ``state.limits`` and ``state.gate``. Further routes may be
        added; those under ``/v1`` and ``/metrics`` ask for a key.

    Raises:
        ConfigError: Two models have one name, or there is none.
    """
    limits = limits or Limits()
    app = FastAPI(title="w2s_chains", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.catalog = catalog = Catalog(models)
    app.state.limits = limits
    app.state.gate = gate = Gate(limits)
    metrics = Metrics(gate)
    created = int(time.time())

    async def answer(request: Request, kind: type[AnyRequest]) -> Response:
        gate.check()
        values: dict[str, Any] | None = None
        try:
            values = read_json(await _body(request, limits.body_bytes))
            asked = read_request(kind, values)
            served, strategy = _found(catalog, asked.model)
            call = await run_sync(Call.prepare, served, strategy, asked, limits)
        except Exception as error:
            refused = refusal_of(error, values)
            if refused.is_ours:
                logger.error("a request failed", exc_info=error)
            raise refused from error
        notes = request.scope["w2s"]
        notes.update(model=served.name, strategy=call.model.strategy.type, stream=call.stream)
        gate.check()
        return Answering(call, gate, limits, notes)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await answer(request, ChatRequest)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, CompletionRequest)

    @app.get("/v1/w2s/models")
    async def describe() -> Response:
        told = await run_sync(lambda: [served.described for served in catalog])
        return Response(to_json({"models": told}), media_type="application/json")

    @app.get("/")
    async def show_page() -> Response:
        html, policy = playground(bool(keys))
        headers = {"content-security-policy": f"{policy}; frame-ancestors 'none'", **_PAGE}
        return Response(html, media_type="text/html; charset=utf-8", headers=headers)

    def entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": created, "owned_by": "w2s_chains"}

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [entry(name) for name in catalog.names()]}

    @app.get("/v1/models/{name:path}")
    async def show_model(name: str) -> dict[str, Any]:
        _found(catalog, name)
        return entry(name)

    @app.get("/health")
    async def health() -> Response:
        if gate.draining:
            return JSONResponse({"status": "stopping"}, 503)
        told = {"status": "ok", "running": gate.running, "queued": gate.queued}
        return JSONResponse(told)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(_Front, keys=keys or Keys(), metrics=metrics)
    if origins:  # outside, so that refusals may be read by scripts too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


_PAGE = {
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def _found(catalog: Catalog, name: str) -> tuple[Served, str | None]:
    found = catalog.find(name)
    if found is None:
        message = f"there is no model {name[:200]!r}{catalog.hint(name)}"
        raise RefusedError(404, message, "model_not_found", param="model")
    return found


async def _body(request: Request, most: int) -> bytes:
    """Read the body of a request; one that is too large is read on for a while, or clients hang up.

    Raises:
        RefusedError: It is too large, too slow, or of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"the content type is {kind[:100]!r}; send 'Content-Type: application/json'"
        raise RefusedError(415, message, "unsupported_media_type")
    parts: list[bytes] = []
    size = 0
    with anyio.move_on_after(BODY_SECONDS) as scope:
        async for part in request.stream():
            size += len(part)
            if size <= most:
                parts.append(part)
            elif size > 8 * most:
                break
    if size > most:
        message = f"the body has more than {most:,} bytes, the most that is read"
        raise RefusedError(413, message, "body_too_large")
    if scope.cancelled_caught:
        raise RefusedError(408, f"the body took more than {BODY_SECONDS:g} seconds", "timeout")
    return b"".join(parts)


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):  # FastAPI's own: unknown paths and methods
        method, path = request.method[:20], request.url.path[:200]
        messages = {404: f"there is no path {path!r}", 405: f"{path} does not take {method}"}
        message = messages.get(error.status_code, str(error.detail))
        error = RefusedError(error.status_code, message, headers=error.headers)
    assert isinstance(error, RefusedError)
    request.scope["w2s"]["error"] = error.error["code"]
    return JSONResponse(error.body, error.status, headers=dict(error.headers))


class _Front:
    """Stands before all routes: asks for keys, counts, logs, and hides what went wrong inside."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        notes: dict[str, Any] = {}
        scope["w2s"] = notes
        request_id = uuid.uuid4().hex
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if self._lacks_key(scope):
                text = "a key is missing or wrong; send 'Authorization: Bearer KEY'"
                wrong = RefusedError(401, text, "invalid_api_key")
                await JSONResponse(wrong.body, 401, {"WWW-Authenticate": "Bearer"})(
                    scope, receive, sent
                )
            else:
                await self._app(scope, receive, sent)
        except Exception as error:
            logger.error("a request failed", exc_info=error)
            if not status:
                failed = refusal_of(RuntimeError())
                await Response(to_json(failed.body), 500, media_type="application/json")(
                    scope, receive, sent
                )
        finally:
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - begun
            status = status or 499  # the client left before anything was sent
            self._metrics.count(route, status, seconds, notes)
            if route not in ("/health", "/metrics"):
                log_request(route, status, seconds, request_id, notes)

    def _lacks_key(self, scope: Scope) -> bool:
        path = scope["path"]
        guarded = path.startswith("/v1/") or path in ("/v1", "/metrics")
        if not guarded or not self._keys or scope["method"] == "OPTIONS":
            return False
        return not self._keys.knows(dict(scope["headers"]).get(b"authorization", b""))
