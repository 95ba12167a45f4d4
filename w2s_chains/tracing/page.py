"""The page of a trace: one HTML file that opens from disk, with no network."""

from __future__ import annotations

import html
from collections.abc import Sequence


def page(traces: Sequence[str]) -> str:
    """Return the page of traces, side by side.

    Args:
        traces: Their JSON, as ``Trace.to_json`` writes it.
    """
    data = f"[{','.join(traces)}]".replace("<", "\\u003c")  # no text can end the script
    return (
        f"<!doctype html><meta charset=utf-8><title>Trace</title><script>const data={data}</script>"
    )


def frame(source: str, height: int = 560) -> str:
    """Return a page in a frame, for notebooks, whose own styles and scripts it does not touch."""
    return (
        f'<iframe srcdoc="{html.escape(source)}" sandbox="allow-scripts" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )
