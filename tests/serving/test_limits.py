"""Keys, CORS, metrics and the log's form."""

from __future__ import annotations

import hmac
import json
import logging
import sys
from typing import Any

import httpx
import pytest

from tests.helpers.serving import serving
from w2s_chains import W2SLLM, ConfigError
from w2s_chains.serving.catalog import Catalog, Served
from w2s_chains.serving.limits import Keys, Limits
from w2s_chains.serving.telemetry import JsonFormatter


@pytest.mark.parametrize("header", ["Bearer one", "Bearer three", "Bearer x", "Basic one", ""])
def test_each_key_is_compared_in_constant_time(
    header: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    whole = hmac.compare_digest

    def compare(given: Any, key: Any) -> bool:
        compared.append(key)
        return whole(given, key)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = Keys(["one", "two", "three"])
    assert keys.knows(header.encode()) == (header in ("Bearer one", "Bearer three"))
    assert compared == [b"one", b"two", b"three"], "all of them, whichever it is"


def test_keys_do_not_show() -> None:
    assert "secret" not in repr(Keys(["secret"]))


def test_other_origins_may_ask_only_where_that_is_said(llm: W2SLLM) -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    served = Served(name="raw", model=llm)
    for origins in ([], ["https://a.example"]):
        with serving(served, origins=origins, keys=["k"]) as client:
            before = client.options("/v1/completions", headers=asked)
            refused = client.get("/v1/models", headers=asked)
        for reply in (before, refused):
            allowed = reply.headers.get("access-control-allow-origin")
            assert allowed == (origins or [None])[0]
        assert refused.status_code == 401


def test_metrics_tell_numbers_and_no_prompts(client: httpx.Client) -> None:
    body = {"model": "raw@wide", "prompt": "sesame", "user": "sesame"}
    reply = client.post("/v1/completions", json=body).json()
    client.post("/v1/completions", json={**body, "model": "sesame"})
    client.post("/sesame")
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as streamed:
        streamed.read()
    told = client.get("/metrics").text
    assert "sesame" not in told
    for line in (
        'w2s_requests_total{route="/v1/completions",status="200"} 2.0',
        'w2s_requests_total{route="/v1/completions",status="404"} 1.0',
        'w2s_requests_total{route="other",status="404"} 1.0',
        'w2s_first_text_seconds_count{route="/v1/completions"} 1.0',
        "w2s_requests_running 0.0",
        "w2s_requests_queued 0.0",
    ):
        assert line in told.splitlines()
    written = 2 * reply["usage"]["completion_tokens"]
    assert f'w2s_tokens_total{{kind="completion",model="raw"}} {written:.1f}' in told
    read = 2 * reply["choices"][0]["w2s"]["read_tokens"]
    assert f'w2s_rows_read_total{{model="raw",reader="proposer"}} {read:.1f}' in told


def test_the_log_tells_where_an_error_was_raised_and_not_what_it_says() -> None:
    try:
        raise ValueError("sesame")
    except ValueError:
        record = logging.LogRecord("x", 40, __file__, 1, "it failed", (), sys.exc_info())
    line = JsonFormatter().format(record)
    assert "sesame" not in line
    told = json.loads(line)
    assert told["error_type"] == "ValueError"
    assert "test_limits.py" in told["raised_at"][0]
    assert "sesame" in logging.Formatter().format(record), "control"


def test_names_and_limits_are_checked(llm: W2SLLM) -> None:
    for name in ("a@b", ""):
        with pytest.raises(ConfigError, match="cannot be called"):
            Catalog([Served(name=name, model=llm)])
    with pytest.raises(ConfigError, match="two models"):
        Catalog([Served(name="a", model=llm), Served(name="a", model=llm)])
    with pytest.raises(ConfigError, match="no model"):
        Catalog([])
    with pytest.raises(ConfigError, match="parallel"):
        Limits(parallel=0)
