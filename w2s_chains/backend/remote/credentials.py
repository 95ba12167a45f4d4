"""``Credentials``: what a server is sent of the environment's secrets, and how they are hidden."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from w2s_chains.errors import ConfigError

OPENAI = "https://api.openai.com/v1"
_NO_KEY = "no-key"
_SHORTEST_SECRET = 4
"""Header values of fewer characters (such as "1") are no secrets; hiding them garbles messages."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # no number, or out of range
        port = -1
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").rstrip("."), port or default


def named_by_environment(url: str) -> bool:
    """Return whether the environment itself names this server: OPENAI_BASE_URL, else OpenAI's."""
    return origin(url) == origin(os.environ.get("OPENAI_BASE_URL") or OPENAI)


class Credentials:
    """The key and the headers that one server is sent."""

    def __init__(self, base_url: str, key: SecretStr | None, variable: str | None) -> None:
        """Read the environment.

        Args:
            base_url: The server.
            key: The key; None for the value of ``variable``.
            variable: The environment variable that should hold the key, if there is one.

        Raises:
            ConfigError: The key or a header cannot be sent in a request.
        """
        found = os.environ.get(variable or "") if key is None else key.get_secret_value()
        self._key = _sendable(found, "the key" + (f" in {variable}" if key is None else ""))
        self._given: Mapping[str, str] = {}
        if named_by_environment(base_url):
            self._given = _openai_headers()
        self.has_key = bool(self._key)

    def headers(self) -> dict[str, str]:
        """Return the headers of every request."""
        given = {name.title(): value for name, value in self._given.items()}  # case is ignored
        return {"Authorization": f"Bearer {self._key or _NO_KEY}", **given}

    def redacted(self, text: str) -> str:
        """Return ``text`` without the values of secrets."""
        secrets = {self._key, *self._given.values()}
        secrets |= {value.rpartition(" ")[2] for value in self._given.values()}  # Bearer ...
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET or secret == self._key != "":
                text = text.replace(secret, "***")
        return text

    def __repr__(self) -> str:
        return f"Credentials(has_key={self.has_key})"


def _openai_headers() -> Mapping[str, str]:
    """Return the headers that OpenAI's own client takes from the environment."""
    names = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    headers = {
        name: _sendable(os.environ[variable], variable)
        for name, variable in names.items()
        if os.environ.get(variable)
    }
    for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip()):
                raise ConfigError(
                    "OPENAI_CUSTOM_HEADERS has a line that is no header; write 'Name: value'"
                )
            headers[name.strip()] = _sendable(value.strip(), "OPENAI_CUSTOM_HEADERS")
    return headers


def _sendable(value: str | None, what: str) -> str:
    """Return a header's value.

    Raises:
        ConfigError: HTTP does not allow it. The message does not repeat it.
    """
    if not value:
        return ""
    if value != value.strip():
        raise ConfigError(
            f"{what} has a space or a line break at one of its ends, which HTTP does not allow; "
            "remove it (files often end in a line break)"
        )
    if not re.fullmatch(r"[\x20-\x7e]+", value):
        raise ConfigError(
            f"{what} has characters that HTTP does not allow in a header (only printable ASCII); "
            "copy it again"
        )
    return value
