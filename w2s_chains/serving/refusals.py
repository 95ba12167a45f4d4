"""``RefusedError``, an error that a client is told, in OpenAI's form.

What is raised elsewhere becomes one here: errors in a request keep their message, which names the
value and the remedy; those of the server's own parts do not, since they may tell of its inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from w2s_chains.errors import (
    CancelledError,
    ConfigError,
    ConstraintError,
    OutOfMemoryError,
    PromptError,
    ServerError,
)


class RefusedError(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: The HTTP status.
        headers: HTTP headers, such as Retry-After.
        error: OpenAI's error object: message, type, param and code.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.error = {
            "message": message,
            "type": _TYPES.get(status, "server_error" if status >= 500 else _WRONG),
            "param": param,
            "code": code,
        }

    @property
    def is_ours(self) -> bool:
        """Whether something in the server is broken, which belongs in its log."""
        return self.status in (500, 502)

    @property
    def body(self) -> dict[str, Any]:
        """What is sent, as a body or as an event of a stream."""
        return {"error": self.error}


_WRONG = "invalid_request_error"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

SERVER_IS_BUSY = {"Retry-After": "1"}
DO_NOT_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients send a request again after a status of 500 or more, unless they are told."""


def refusal_of(error: BaseException, values: object = None) -> RefusedError:
    """Return what a client is told of an error.

    Args:
        error: What was raised while a request was answered.
        values: The body of the request, in which a faulty field is looked for.
    """
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, ConfigError | PromptError | ConstraintError):
        code, param = _fault(error.__cause__, values)
        if isinstance(error, PromptError):
            param = "messages" if isinstance(values, Mapping) and "messages" in values else "prompt"
        return RefusedError(400, str(error), code, param=param)
    if isinstance(error, ServerError):
        if error.passing:
            message = "a model behind this server is busy or cannot be reached; try again"
            return RefusedError(503, message, "model_unavailable", headers=SERVER_IS_BUSY)
        return RefusedError(502, "a model behind this server failed", "model_failed")
    if isinstance(error, OutOfMemoryError):
        message = "the server has not enough memory for this request; ask for less at once"
        return RefusedError(503, message, "out_of_memory", headers=DO_NOT_RETRY)
    if isinstance(error, CancelledError):
        return RefusedError(503, "the server stops", "stopping", headers=SERVER_IS_BUSY)
    message = "the server failed; its log tells more under the id in the header x-request-id"
    return RefusedError(500, message, "internal_error", headers=DO_NOT_RETRY)


def _fault(cause: BaseException | None, values: object) -> tuple[str | None, str | None]:
    """Return code and place of the first fault that pydantic found."""
    if not isinstance(cause, ValidationError):
        return None, None
    fault = cause.errors(include_url=False, include_input=False)[0]
    kinds = {
        "extra_forbidden": "unknown_parameter",
        "missing": "missing_required_parameter",
        "unsupported": "unsupported_parameter",
    }
    return kinds.get(fault["type"], "invalid_value"), ".".join(_steps(fault, values)) or None


def _steps(fault: Any, values: Any) -> Iterator[str]:
    """Yield the steps to a faulty field, without pydantic's branches of unions."""
    for step in fault["loc"]:
        try:
            values = values[step]
        except (LookupError, TypeError):
            if fault["type"] != "missing":
                continue
        yield str(step)[:100]
