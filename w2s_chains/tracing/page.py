"""The page of a trace: one HTML file that opens from disk, with no network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

from w2s_chains.tracing.trace import Trace


def page(traces: Sequence[Trace]) -> str:
    """Return the page of traces, side by side."""
    data = json.dumps([json.loads(trace.to_json()) for trace in traces]).replace("<", "\\u003c")
    return (
        f"<!doctype html><meta charset=utf-8><title>Trace</title><script>const data={data}</script>"
    )


def frame(traces: Sequence[Trace], height: int = 560) -> str:
    """Return the page in a frame, for notebooks, whose own styles and scripts it does not touch."""
    source = html.escape(page(traces), quote=True)
    return (
        f'<iframe srcdoc="{source}" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )
