"""The page of a trace: one HTML file that opens from disk, with no network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

STYLES = ("colours.css", "page.css", "tree.css")
SCRIPTS = (
    "dom.js",
    "search.js",
    "heat.js",
    "tree.js",
    "overview.js",
    "details.js",
    "steps.js",
    "explorer.js",
)
"""What a page that shows searches needs; each builds on those before it."""


def page(traces: Sequence[str]) -> str:
    """Return the page of traces, side by side.

    Args:
        traces: Their JSON, as ``Trace.to_json`` writes it.
    """
    read: list[dict[str, Any]] = [json.loads(one) for one in traces]
    data = f"[{','.join(traces)}]".replace("<", "\\u003c")  # no text can end the script
    prompt = _plain(read[0]["prompt"])
    return document(
        "page.html",
        styles=STYLES,
        scripts=(*SCRIPTS, "page.js"),
        title=html.escape(f"Trace: {prompt[:80]}"),
        data=data,
        plain="".join(f"<pre>{html.escape(text)}</pre>" for text in (prompt, *map(_answer, read))),
    )


def document(name: str, *, styles: Sequence[str], scripts: Sequence[str], **values: str) -> str:
    """Return a page whose styles and scripts are in it, and which may load no others.

    Args:
        name: The file of its HTML among the assets.
        styles: Files of its styles, in order.
        scripts: Files of its scripts, which share one scope, in order.
        **values: Further values of the HTML, escaped.
    """
    style, script = ("\n".join(map(asset, names)) for names in (styles, scripts))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "connect-src $connect; img-src data:; base-uri 'none'; form-action 'none'"
    )
    policy = policy.replace("$connect", values.pop("connect", "'none'"))
    return Template(asset(name)).substitute(values, style=style, script=script, policy=policy)


@cache
def asset(name: str) -> str:
    """Return the text of a file that pages are made of."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def frame(source: str, height: int = 720) -> str:
    """Return a page in a frame, for notebooks, whose own styles and scripts it does not touch.

    The frame is dark where Jupyter, VS Code or Colab are dark.
    """
    dark = ('[data-jp-theme-light="false"]', "body.vscode-dark", "html[theme=dark]")
    light = ('[data-jp-theme-light="true"]', "body.vscode-light", "html[theme=light]")
    rules = "".join(
        f"{','.join(f'{root} .w2s-trace' for root in roots)}{{color-scheme:{scheme}}}"
        for roots, scheme in ((dark, "dark"), (light, "light"))
    )
    return (
        f'<style>{rules}</style><iframe class="w2s-trace" srcdoc="{html.escape(source)}" '
        f'sandbox="allow-scripts" title="Trace of a search" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _plain(prompt: str | list[dict[str, str]]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def _answer(trace: dict[str, Any]) -> str:
    return trace["answer"]["text"] if trace.get("answer") else ""
