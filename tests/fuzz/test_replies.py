"""Replies of a server: an answer or one clear error, whatever the server sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.helpers.fuzzing import anything, fuzz, garbled
from w2s_chains import W2SLLM, OpenAIConfig

REPLY = {
    "choices": [
        {
            "index": 0,
            "text": " words",
            "message": {"role": "assistant", "content": "words"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
KEYS = ["choices", "index", "text", "finish_reason", "message", "content", "usage", "stop",
        "prompt_tokens", "completion_tokens", "logprobs", "tokens", "length", "error"]  # fmt: skip


class Said:
    """What the server says next."""

    body = b""
    status = 200


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(Said.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(Said.body)))
            self.end_headers()
            self.wfile.write(Said.body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1"
        running.shutdown()


@pytest.mark.parametrize("chat", [False, True], ids=["completions", "chat"])
def test_replies(server: str, chat: bool, until: float | None) -> None:
    proposer = OpenAIConfig(model="m", base_url=server, chat=chat, max_retries=0, backoff=0.0)
    llm = W2SLLM(proposer, strategy="sampling", max_tokens=8, seed=0)

    def check(given: tuple[int, bytes]) -> None:
        Said.status, Said.body = given
        llm.invoke("a prompt")

    Said.status, Said.body = 200, json.dumps(REPLY).encode()
    assert "words" in llm.invoke("a prompt"), "control"
    bodies = st.one_of(
        garbled(json.dumps(REPLY)).map(lambda text: text.encode("utf-8", "surrogatepass")),
        anything(KEYS).map(lambda value: json.dumps(value, default=str, skipkeys=True).encode()),
        st.binary(max_size=40),
    )
    statuses = st.sampled_from([200, 200, 200, 204, 400, 401, 404, 429, 500, 503])
    fuzz(check, st.tuples(statuses, bodies), until)
