"""OpenAI-compatible servers of ours on loopback: what real ones do, and what goes wrong with them.

with serve(Words()) as server:
    OpenAIProposer("words", base_url=server.url)
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import torch

FAULTS = ("429", "500", "hang", "truncated", "empty", "wrong_n", "disconnect")

EXTENSIONS = {
    "top_k", "min_p", "repetition_penalty", "repeat_penalty", "return_token_ids",
    "return_tokens_as_token_ids",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Continued:
    """One choice."""

    text: str
    finish_reason: str = "length"
    token_ids: list[int] | None = None
    count: int
    logprobs: dict[str, Any] | None = None


class Model(Protocol):
    def read(self, prompt: str) -> list[int]: ...

    def go_on(self, ids: Sequence[int] | str, body: Mapping[str, Any], index: int) -> Continued: ...


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "little")


def greedy(body: Mapping[str, Any]) -> bool:
    return body["temperature"] == 0 or body.get("top_k") == 1 or body.get("min_p") == 1


class Words:
    """A model that is a hash function: every token is a word, a function of text and seed."""

    vocabulary = (" one", " two", " three", " four", " five", " six", " seven", " eight")

    def __init__(self, ends: bool = False) -> None:
        self.ends = ends

    def read(self, prompt: str) -> list[int]:
        return [ord(letter) for letter in prompt]

    def go_on(self, ids: Sequence[int] | str, body: Mapping[str, Any], index: int) -> Continued:
        assert isinstance(ids, str)
        text = ""
        for n in range(body["max_tokens"]):
            noise = () if greedy(body) else (body["seed"], index)
            drawn = digest(ids + text, noise)
            if self.ends and drawn % 10 == 0:
                return Continued(text=text, finish_reason="stop", count=n)
            text += self.vocabulary[drawn // 10 % len(self.vocabulary)]
        return Continued(text=text, count=body["max_tokens"])


class Tiny:
    """A tiny random model with its tokenizer; greedy at temperature 0."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._lock = threading.Lock()

    def read(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt)["input_ids"]

    @torch.inference_mode()
    def go_on(self, ids: Sequence[int] | str, body: Mapping[str, Any], index: int) -> Continued:
        given = self.read(ids) if isinstance(ids, str) else list(ids)
        generator = torch.Generator().manual_seed(digest(body["seed"], index))
        new: list[int] = []
        reason = "length"
        with self._lock:
            for _ in range(body["max_tokens"]):
                logits = self.model(torch.tensor([[*given, *new]])).logits[0, -1]
                if greedy(body):
                    token = int(logits.argmax())
                else:
                    chances = (logits / body["temperature"]).softmax(-1)
                    token = int(torch.multinomial(chances, 1, generator=generator))
                new.append(token)
                if token == self.tokenizer.eos_token_id:
                    reason = "stop"
                    break
            text = self.tokenizer.decode(new, skip_special_tokens=True)
        return Continued(text=text, finish_reason=reason, token_ids=new, count=len(new))


@dataclass(kw_only=True)
class Server:
    """A server under way.

    Attributes:
        model: What it serves.
        n: Whether it gives several choices; if not, it ignores the field silently.
        ids: Whether it takes and returns token ids.
        strict: Whether it refuses fields that the OpenAI API does not have.
        seeds: Whether it keeps to seeds.
        completions: Whether it continues texts; if not, it is chat-only.
        most: The most likeliest tokens that it tells; it refuses requests for more.
        refused: HTTP statuses of prompts that have a text in them.
        faults: How often which fault comes (see ``FAULTS``), as a function of ``seed`` and the
            request, but not in which order requests come.
        seed: Of the faults.
        patience: Seconds that a hanging request hangs.
        bodies: What was asked for, in order.
        keys: The keys that came along.
        peak: Most requests under way at once.
    """

    model: Model
    n: bool = True
    ids: bool = False
    strict: bool = False
    seeds: bool = True
    completions: bool = True
    most: int = 1000
    refused: Mapping[str, int] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    patience: float = 5.0
    delay: float = 0.0
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    injected: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    _under_way: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)

    def fault(self, body: Mapping[str, Any]) -> str | None:
        """What goes wrong with this request, if anything does."""
        place = json.dumps(body, sort_keys=True)
        with self._lock:
            self._seen[place] += 1
            attempt = self._seen[place]
        at = digest(self.seed, place, attempt) % 10_000 / 10_000
        for name, rate in self.faults.items():
            if at < rate:
                with self._lock:
                    self.injected[name] += 1
                return name
            at -= rate
        return None

    def answer(self, body: dict[str, Any], chat: bool) -> tuple[int, dict[str, Any]]:
        """HTTP status and JSON."""
        if chat == self.completions:
            return 404, {"error": {"message": "no such route"}}
        unknown = EXTENSIONS & set(body)
        if self.strict and unknown:
            return 400, {"error": {"message": f"unrecognized arguments: {sorted(unknown)}"}}
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        limit = body.get("max_tokens") or body.get("max_completion_tokens", 16)
        body = {"temperature": 1.0, "seed": len(self.bodies), **body, "max_tokens": limit}
        for text, status in self.refused.items():
            if text in prompt:
                return status, {"error": {"message": f"refused because of {text!r}"}}
        if body.get("logprobs", 0) > self.most:
            return 400, {"error": {"message": f"logprobs: at most {self.most}"}}
        if isinstance(prompt, list) and not self.ids:
            return 500, {"error": {"message": "prompt must be a string"}}
        if not self.seeds:
            body = {**body, "seed": len(self.bodies)}
        count = body.get("n", 1) if self.n else 1
        given = [self.model.go_on(prompt, body, i) for i in range(count)]
        choices = []
        for index, one in enumerate(given):
            choice: dict[str, Any] = {"index": index, "finish_reason": one.finish_reason}
            if chat:
                choice["message"] = {"role": "assistant", "content": one.text}
            else:
                choice |= {"text": one.text, "logprobs": one.logprobs}
            if self.ids and body.get("return_token_ids"):
                read = self.model.read(prompt) if isinstance(prompt, str) else prompt
                choice |= {"token_ids": one.token_ids, "prompt_token_ids": read}
            choices.append(choice)
        spent = sum(one.count for one in given)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": spent}
        return 200, {"choices": choices, "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet, or each reply waits 40 ms for an acknowledgement
    served: Server

    def do_POST(self) -> None:
        served = self.served
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["authorization"].removeprefix("Bearer ")
        with served._lock:
            served.bodies.append(body)
            served.keys.add(key)
            served._under_way += 1
            served.peak = max(served.peak, served._under_way)
        try:
            if served.delay:
                served.over.wait(served.delay)
            self._answer(body, key)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with served._lock:
                served._under_way -= 1

    def _answer(self, body: dict[str, Any], key: str) -> None:
        served = self.served
        fault = served.fault(body)
        if fault == "hang":
            served.over.wait(served.patience)
            self.close_connection = True
            return
        if fault in ("429", "500"):
            # Careless servers repeat what they were sent.
            self._send(int(fault), {"error": {"message": f"key {key} is out of luck"}})
            return
        status, reply = served.answer(body, self.path.endswith("/chat/completions"))
        if fault == "empty":
            reply["choices"] = []
        elif fault == "wrong_n" and status == 200:
            count = len(reply["choices"])
            reply["choices"] = reply["choices"][: count - 1] or reply["choices"] * 2
        self._send(status, reply, fault)

    def _send(self, status: int, reply: Any, fault: str | None = None) -> None:
        content = json.dumps(reply).encode()
        half = content[: len(content) // 2]
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(half if fault == "truncated" else content)))
        self.end_headers()
        self.wfile.write(half if fault in ("truncated", "disconnect") else content)
        self.close_connection = fault == "disconnect"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""


@contextmanager
def serve(model: Model, **options: Any) -> Generator[Server]:
    """A server on loopback."""
    served = Server(model=model, **options)
    handler = type("Handler", (_Handler,), {"served": served})
    http = _HTTPServer(("127.0.0.1", 0), handler)
    served.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        http.shutdown()
        thread.join()
        http.server_close()
