"""``w2s serve`` as a process: its options, its log and its end."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner

from tests.helpers.polling import until
from w2s_chains.cli import app

KEY, PROMPT = "sesame-key", "sesame-prompt"


@pytest.fixture
def config(tmp_path: Path, tiny_folders: dict[str, Path]) -> Path:
    path = tmp_path / "tiny.yaml"
    values = {
        "proposer": {"model": str(tiny_folders["proposer"])},
        "guides": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")},
        "strategies": {"wide": {"type": "chunk_beam", "width": 3, "successors": 2}},
        "generation": {"max_tokens": 8, "seed": 0},
    }
    path.write_text(yaml.safe_dump(values))
    return path


class Running:
    """A server's process; ``log`` is what it has written to stderr so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        assert process.stderr is not None
        self._reader = threading.Thread(target=lambda: self.log.extend(process.stderr or ()))
        self._reader.start()
        assert process.stdout is not None
        self.told = process.stdout.readline()
        url = next(word for word in self.told.split() if word.startswith("http")).rstrip(";")
        self.client = httpx.Client(base_url=url, timeout=60)

    def end(self, sent: signal.Signals) -> int:
        self.process.send_signal(sent)
        code = self.process.wait(60)
        self._reader.join()
        return code


@contextmanager
def process(*words: str, **environment: str) -> Generator[Running]:
    command = [sys.executable, "-m", "w2s_chains", "serve", *words, "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    ) as started:  # fmt: skip
        try:
            running = Running(started)
            with running.client:
                yield running
        finally:
            started.kill()


def test_a_server_with_keys_that_is_terminated(config: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_text("# of Ann\nann-key\n\nbob-key\n")
    words = [f"mine={config}", "--api-key-env", "SERVER_KEY", "--api-key-file", str(keys)]
    with process(*words, SERVER_KEY=KEY) as server:
        client = server.client
        assert "mine" in server.told
        for key, status in ((KEY, 200), ("bob-key", 200), ("ann-ke", 401), ("none", 401)):
            client.headers["authorization"] = f"Bearer {key}"
            assert client.get("/models").status_code == status
            assert client.get(client.base_url.join("/metrics")).status_code == status
            assert client.get(client.base_url.join("/health")).status_code == 200
        client.headers["authorization"] = f"Bearer {KEY}"
        body: dict[str, Any] = {"model": "mine@wide", "prompt": PROMPT}
        client.post("/completions", json=body).raise_for_status()
        assert client.post("/completions", json={**body, PROMPT: 1}).status_code == 400
        assert client.post(f"/{PROMPT}?key={KEY}").status_code == 404

        found: list[httpx.Response] = []
        long = {**body, "max_tokens": 300}
        thread = threading.Thread(
            target=lambda: found.append(client.post("/completions", json=long))
        )
        thread.start()
        until(lambda: httpx.get(client.base_url.join("/health")).json()["running"])
        code = server.end(signal.SIGTERM)
        thread.join()
    assert found[0].status_code == 200, "it may end"
    assert code == 0
    log = "".join(server.log)
    assert KEY not in log
    assert PROMPT not in log
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request"]
    told = [line["status"] for line in requests if line["route"] == "/v1/completions"]
    assert sorted(told) == [200, 200, 400]
    [first] = [one for one in requests if one.get("cost")][:1]
    assert first["model"] == "mine"
    assert first["strategy"] == "chunk_beam"
    assert first["cost"]["completion_tokens"] > 0


def test_an_open_server_that_is_interrupted(config: Path) -> None:
    with process(str(config), "--host", "0.0.0.0") as server:
        url = str(server.client.base_url).replace("0.0.0.0", "127.0.0.1")
        reply = httpx.get(f"{url}models", headers={"origin": "http://elsewhere.example"})
        assert reply.json()["data"][0]["id"] == "tiny"
        assert "access-control-allow-origin" not in reply.headers
        assert server.end(signal.SIGINT) == 0
    assert any("there is no key" in line for line in server.log)


# Errors come before any model is loaded, or as one line.


def told(*words: str) -> str:
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.output


@pytest.fixture
def same_log() -> Iterator[None]:
    """Undoes what the command does to this process's log."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def test_what_is_wrong_is_told(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_log: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "--port" in told(str(config), "--port", str(taken.getsockname()[1]))
    assert "UNSET_KEY" in told(str(config), "--api-key-env", "UNSET_KEY")
    (tmp_path / "none.txt").write_text("# nobody\n")
    assert "no key" in told(str(config), "--api-key-file", str(tmp_path / "none.txt"))
    monkeypatch.setenv("BROKEN", "two words")
    assert "two words" not in told(str(config), "--api-key-env", "BROKEN")
    assert "two models" in told(str(config), str(config), "--port", "0")
    assert "parallel" in told(str(config), "--parallel", "0")
    assert "cannot read" in told("missing.yaml", "--port", "0")


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client"])
def test_a_missing_package_names_the_extra(config: Path, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom w2s_chains.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(config)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "w2s_chains[serve]" in done.stderr
    assert "Traceback" not in done.stderr
