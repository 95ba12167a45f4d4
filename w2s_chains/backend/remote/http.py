"""``post``: one bounded HTTP request, without redirects to other hosts."""

from __future__ import annotations

import zlib
from email.utils import parsedate_to_datetime
from math import isnan
from time import time
from typing import TYPE_CHECKING

from w2s_chains.backend.remote.credentials import origin

if TYPE_CHECKING:
    import httpx

_REDIRECTS = 3
"""Most redirects to follow, all on the same server (a missing slash is one)."""
_LONGEST_ERROR = 65536
"""Bytes to read of the body of an error."""


class BadResponseError(Exception):
    """The server answered, but not with a body to parse.

    Attributes:
        status: The HTTP status.
        asked: Seconds that the server asks us to wait before another attempt.
    """

    def __init__(self, problem: str, status: int | None = None, asked: float = 0.0) -> None:
        super().__init__(problem)
        self.status = status
        self.asked = asked


async def post(client: httpx.AsyncClient, url: str, content: bytes, most: int) -> bytes:
    """Send JSON and return the body of the reply.

    Args:
        client: The client; it must not follow redirects itself.
        url: Where to send it.
        content: The JSON.
        most: The most bytes of the body, after decompression.

    Raises:
        BadResponseError: The status is no success, a redirect leaves the server, or the body is
            longer.
        httpx.HTTPError: There is no answer.
    """
    headers = {"Content-Type": "application/json"}
    redirects = 0
    while True:
        async with client.stream("POST", url, content=content, headers=headers) as response:
            status, location = response.status_code, response.headers.get("location")
            if status in (307, 308) and location is not None:
                target = str(response.url.join(location))
                if origin(target) != origin(url):
                    scheme, host, port = origin(target)
                    raise BadResponseError(
                        f"it redirects to another server, {scheme}://{host}:{port}, which would "
                        "get the prompt; if you trust that one, name it in base_url",
                        status,
                    )
                if redirects == _REDIRECTS:
                    raise BadResponseError(
                        f"it redirects more than {_REDIRECTS} times; correct base_url", status
                    )
                url, redirects = target, redirects + 1
                continue
            if not response.is_success:
                text = (await _read(response, _LONGEST_ERROR, cut=True)).decode(errors="replace")
                raise BadResponseError(text, status, _seconds(response.headers.get("retry-after")))
            return await _read(response, most)


async def _read(response: httpx.Response, most: int, cut: bool = False) -> bytes:
    """Read at most ``most`` bytes after decompression.

    httpx would decompress a whole chunk at once, to a thousand times its size.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise BadResponseError(
            f"its reply is compressed as {coding[:40]!r}, though the request allows gzip only",
            response.status_code,
        )
    unzip = zlib.decompressobj(wbits=47) if coding not in ("identity", "") else None
    body = bytearray()
    async for part in response.aiter_raw():
        room = most - len(body) + 1
        body += part[:room] if unzip is None else unzip.decompress(part, room)
        if len(body) > most:
            if cut:
                return bytes(body[:most])
            raise BadResponseError(
                f"its reply is longer than {most:,} bytes, which is more than this request can "
                "need; check that it keeps to max_tokens"
            )
    return bytes(body)


def _seconds(header: str | None) -> float:
    """Return the seconds of a Retry-After header, which holds a number or a date."""
    if header is None:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time()
        except (ValueError, OverflowError, OSError):
            return 0.0
    return 0.0 if isnan(seconds) else max(seconds, 0.0)
