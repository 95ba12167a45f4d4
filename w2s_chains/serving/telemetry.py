"""What a server tells its operator: ``Metrics`` for Prometheus, and a log in JSON.

Neither has prompts, answers or keys. Messages of errors may quote a prompt, so of an error the log
has its type and where it was raised.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from w2s_chains.serving.limits import Gate

logger = logging.getLogger("w2s_chains.serving")

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server; labels are routes, statuses and names of models."""

    def __init__(self, gate: Gate) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "w2s_requests", "Requests by route and HTTP status", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "w2s_request_seconds", "Seconds from a request to the end of its response", ["route"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._first = Histogram(
            "w2s_first_text_seconds", "Seconds to the first committed text of a stream", ["route"],
            registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._left = Counter("w2s_clients_left", "Clients that left early", registry=registry)
        self._tokens = Counter(
            "w2s_tokens", "Tokens of prompts and answers, and tokens proposed for them",
            ["model", "kind"], registry=registry,
        )  # fmt: skip
        self._rows = Counter(
            "w2s_rows_read", "Rows that models read for finished answers: what a search costs",
            ["model", "reader"], registry=registry,
        )  # fmt: skip
        running = Gauge("w2s_requests_running", "Requests that are answered", registry=registry)
        running.set_function(lambda: gate.running)
        queued = Gauge("w2s_requests_queued", "Requests that wait for others", registry=registry)
        queued.set_function(lambda: gate.queued)

    def page(self) -> bytes:
        """Return all counters in Prometheus' format."""
        return generate_latest(self._registry)

    def count(self, route: str, status: int, seconds: float, notes: Mapping[str, Any]) -> None:
        """Count a request; ``notes`` are those of ``Answering``."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if "first_text_seconds" in notes:
            self._first.labels(route).observe(notes["first_text_seconds"])
        if "left" in notes:
            self._left.inc()
        cost = notes.get("cost", {})
        for kind in ("prompt", "completion", "proposed") if cost else ():
            self._tokens.labels(notes["model"], kind).inc(cost[f"{kind}_tokens"])
        for reader, name in _READERS.items() if cost else ():
            self._rows.labels(notes["model"], reader).inc(cost[name])


_READERS = {"proposer": "read_tokens", "guides": "guide_tokens"}


def log_request(
    route: str, status: int, seconds: float, request_id: str, notes: Mapping[str, Any]
) -> None:
    """Write one line about a request; ``notes`` are those of ``Answering``."""
    values = {
        "id": request_id,
        "route": route,
        "status": status,
        "seconds": round(seconds, 4),
        **notes,
    }
    logger.info("request", extra={"w2s": values})


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON, without the messages of errors."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        values: dict[str, Any] = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "w2s", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            values["error_type"] = type(error).__name__
            values["raised_at"] = [f"{one.filename}:{one.lineno} {one.name}" for one in frames]
        return json.dumps(values, ensure_ascii=False, default=str)


def log_as_json() -> None:
    """Send all logs and warnings to stderr, a line of JSON for each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)
    for quiet in ("httpx", "httpcore", "openai"):
        logging.getLogger(quiet).setLevel(logging.WARNING)
