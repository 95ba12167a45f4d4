"""A server for proposers, guides and judges, and everything that it may do wrong.

with serving("gzip bomb") as server:
    server.on = True  # until then it works
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.helpers.served import digest

KEY = "sk-do-not-tell-anyone"
WORDS = (" one", " two", " three", " four", " five", " six", " seven", " eight")


def tokens_of(text: str) -> list[str]:
    return re.findall(r"\s?\S+|\s", text)


def logprob(before: str, token: str) -> float:
    return -0.2 - digest(before, token) % 1000 / 300


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """What a faultless server answers."""
    prompt, choices = body["prompt"], []
    for index in range(body.get("n", 1)):
        text = ""
        noise = (body.get("seed", 0), index) if body["temperature"] else ()
        for _ in range(body["max_tokens"]):
            text += WORDS[digest(prompt, text, noise) % len(WORDS)]
        given, begin = (prompt + text, "") if body.get("echo") else (text, prompt)
        told: dict[str, list[Any]] = {"tokens": tokens_of(given), "token_logprobs": []}
        for token in told["tokens"]:
            told["token_logprobs"].append(logprob(begin, token) if begin else None)
            begin += token
        choices.append(
            {
                "index": index,
                "text": given,
                "finish_reason": "length",
                "logprobs": told if body.get("logprobs") else None,
            }
        )
    used = len(choices) * body["max_tokens"]
    usage = {"prompt_tokens": len(tokens_of(prompt)), "completion_tokens": used}
    return {"choices": choices, "usage": usage}


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """What a faultless judge answers."""
    message = {"role": "assistant", "content": str(digest(body["messages"]) % 10)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [choice], "usage": usage,
    }  # fmt: skip


Reply = dict[str, Any]


def each_text(reply: Reply, change: Callable[[str], Any]) -> None:
    for choice in reply["choices"]:
        if "text" in choice:
            choice["text"] = change(choice["text"])
        else:
            choice["message"]["content"] = change(choice["message"]["content"])


def each(reply: Reply, **fields: Any) -> None:
    for choice in reply["choices"]:
        choice.update(fields)


def logprobs(reply: Reply, change: Callable[[list[Any]], list[Any]]) -> None:
    for choice in reply["choices"]:
        if choice.get("logprobs"):
            choice["logprobs"]["token_logprobs"] = change(choice["logprobs"]["token_logprobs"])
        else:
            choice["logprobs"] = {"tokens": ["x"], "token_logprobs": [0.5]}


WRONG: dict[str, Callable[[Reply], Any]] = {
    "no choices": lambda reply: reply.update(choices=[]),
    "choices too many": lambda reply: reply.update(choices=reply["choices"] * 3),
    "text too long": lambda reply: each_text(reply, lambda text: text + " word" * 300_000),
    "no text": lambda reply: (each_text(reply, lambda _: ""), each(reply, finish_reason="length")),
    "text is a number": lambda reply: each_text(reply, lambda _: 7.5e300),
    "text is null": lambda reply: each_text(reply, lambda _: None),
    "half a surrogate": lambda reply: each_text(reply, lambda text: text + "\ud800"),
    "unknown ending": lambda reply: each(reply, finish_reason="tool_calls"),
    "no ending": lambda reply: each(reply, finish_reason=None),
    "negative usage": lambda reply: reply["usage"].update(completion_tokens=-5, prompt_tokens=-1),
    "huge usage": lambda reply: reply["usage"].update(completion_tokens=10**400),
    "usage of nothing": lambda reply: reply["usage"].update(completion_tokens=0),
    "positive logprobs": lambda reply: logprobs(reply, lambda found: [5.0 for _ in found]),
    "logprobs are NaN": lambda reply: logprobs(reply, lambda found: [float("nan") for _ in found]),
    "logprobs too few": lambda reply: logprobs(reply, lambda found: found[1:]),
    "ids out of range": lambda reply: each(reply, token_ids=[2**40], prompt_token_ids=[-1]),
}
"""Replies of status 200 that are JSON."""

RAW = (
    "no answer", "hangs", "trickles", "cut off", "empty", "web page", "no UTF-8", "deep JSON",
    "gzip bomb", "endless", "huge headers", "redirect", "circle", "busy until a date",
    "busy for ever", "down", "key refused", "breaks", "not there", "nonsense", "other coding",
)  # fmt: skip
FAULTS = (*WRONG, *RAW)


class FaultyServer(ThreadingHTTPServer):
    """Attributes:
    fault: What goes wrong while ``on``.
    other: Another server, to redirect to.
    headers: The headers of every request.
    requests: How many there were.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, fault: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault = fault
        self.on = False
        self.other = ""
        self.requests = 0
        self.headers: list[dict[str, str]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests += 1
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        reply = chat(body) if self.path.endswith("chat/completions") else completion(body)
        fault = self.server.fault if self.server.on else None
        if fault in WRONG:
            WRONG[fault](reply)
            self.send(200, json.dumps(reply).encode())
        elif fault is None:
            self.send(200, json.dumps(reply).encode())
        else:
            self.close_connection = True
            self.go_wrong(fault, json.dumps(reply).encode())

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def go_wrong(self, fault: str, content: bytes) -> None:
        said = json.dumps({"error": {"message": f"your {self.headers['authorization']}"}}).encode()
        elsewhere = f"{self.server.other}/completions"
        statuses = {"down": 503, "key refused": 401, "breaks": 500, "not there": 404}
        if fault == "hangs":
            self.server.over.wait(60)
        elif fault == "trickles":
            self.send_response(200)
            self.end_headers()
            while not self.server.over.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        elif fault == "cut off":
            self.send(200, content[: len(content) // 2], content_length=str(len(content)))
        elif fault == "empty":
            self.send(200, b"")
        elif fault == "web page":
            self.send(200, b"<html>" + said * 1000, content_type="text/html")
        elif fault == "no UTF-8":
            self.send(200, b'{"choices": "\xff\xfe"}')
        elif fault == "deep JSON":
            self.send(200, b"[" * 500_000)
        elif fault == "gzip bomb":
            self.send(200, BOMB, content_encoding="gzip")
        elif fault == "other coding":
            self.send(200, content, content_encoding="zstd")
        elif fault == "endless":
            self.send_response(200)
            self.end_headers()
            while not self.server.over.is_set():
                self.wfile.write(b" " * 2**16)
        elif fault == "huge headers":
            self.send_response(200)
            for i in range(3000):
                self.send_header(f"x-{i}", "y" * 1000)
            self.end_headers()
        elif fault == "redirect":
            self.send(307, b"", location=elsewhere)
        elif fault == "circle":
            self.send(307, b"", location=f"{self.server.url}/completions")
        elif fault == "busy until a date":
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90_000))
            self.send(429, said, retry_after=date)
        elif fault == "busy for ever":
            self.send(429, said, retry_after="1e300")
        elif fault == "nonsense":
            self.wfile.write(b"\x00\x01 SSH-2.0 nonsense\r\n\r\n" * 20)
        elif fault in statuses:
            self.send(statuses[fault], said)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _bomb() -> bytes:
    """Half a gigabyte of spaces as half a megabyte."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(b" " * 2**20) for _ in range(512)) + packer.flush()


BOMB = gzip.compress(b" " * 2**20)


@contextmanager
def serving(fault: str | None = None) -> Generator[FaultyServer]:
    """A server on loopback."""
    global BOMB
    if fault == "gzip bomb" and len(BOMB) < 2**18:
        BOMB = _bomb()
    with FaultyServer(fault) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
