"""A small OpenAI-compatible server with a real model, which tells log-probabilities of prompts."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

KEY = "sk-very-secret"


class EchoServer(ThreadingHTTPServer):
    """Serves one model; ``fault`` says what it does wrong.

    Attributes:
        bodies: What it was asked for.
        keys: The keys that came with it.
        fault: None, "no echo", "shifted" (it tells of the token before), "constant", "no logprobs",
            "refuses", "breaks" (as llama.cpp does), or "down".
    """

    daemon_threads = True

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.tokenizer = model, tokenizer
        self.fault: str | None = None
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @torch.inference_mode()
    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = self.tokenizer(body["prompt"])["input_ids"]
        count = len(ids)
        generator = torch.Generator().manual_seed(body.get("seed") or 0)
        for _ in range(body["max_tokens"]):
            logits = self.model(torch.tensor([ids])).logits[0, -1]
            if body["temperature"] == 0:
                ids.append(int(logits.argmax()))
            else:
                weights = (logits / body["temperature"]).softmax(-1)
                ids.append(int(torch.multinomial(weights, 1, generator=generator)))
        table = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        logprobs: list[float | None] = [None]
        logprobs += [table[i, token].item() for i, token in enumerate(ids[1:])]
        echo = body.get("echo", False) and self.fault != "no echo"
        if self.fault == "shifted" and echo:
            logprobs = [None, -0.5, *logprobs[1:-1]]
        if self.fault == "constant" and echo:
            logprobs = [None, *[-1.0] * (len(ids) - 1)]
        begin = 0 if echo else count
        told = {
            "tokens": [self.tokenizer.decode([token]) for token in ids[begin:]],
            "token_logprobs": logprobs[begin:],
        }
        choice = {
            "index": 0,
            "text": self.tokenizer.decode(ids[begin:]),
            "finish_reason": "length",
            "logprobs": None if self.fault == "no logprobs" else told,
        }
        usage = {"prompt_tokens": count, "completion_tokens": len(ids) - count}
        return {"choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    server: EchoServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
            if self.server.fault == "refuses" and body.get("echo"):
                self.answer(400, {"error": {"message": f"no echo here, {KEY}"}})
            elif self.server.fault == "breaks" and body.get("echo"):
                self.answer(500, {"error": {"message": "logprobs is not supported"}})
            elif self.server.fault == "down":
                self.answer(503, {"error": {"message": "busy"}})
            else:
                self.answer(200, self.server.complete(body))

    def answer(self, status: int, values: dict[str, Any]) -> None:
        data = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests read what is logged."""


@contextmanager
def serving(model: Any, tokenizer: Any) -> Generator[EchoServer]:
    """While it is open, the model is served on a port of this machine."""
    with EchoServer(model, tokenizer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
