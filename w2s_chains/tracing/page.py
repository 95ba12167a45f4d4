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

STYLES = ("colours.css", "tree.css")
SCRIPTS = (
    "dom.js",
    "search.js",
    "heat.js",
    "tree.js",
    "overview.js",
    "details.js",
    "steps.js",
    "explorer.js",
    "card.js",
)
"""What pages that show searches share; each file builds on those before it."""

_TITLE, _DATA = "{title of the page}", "{data of the page}"


def page(traces: Sequence[str]) -> str:
    """Return the page of traces, side by side.

    Args:
        traces: Their JSON, as ``Trace.to_json`` writes it.
    """
    read: list[dict[str, Any]] = [json.loads(one) for one in traces]
    data = f"[{','.join(traces)}]".replace("<", "\\u003c")  # no text can end the script
    prompt = _plain(read[0]["prompt"])
    found, _ = _document(
        "page.html",
        ("page.css",),
        ("page.js",),
        title=html.escape(f"Trace: {prompt[:80]}"),
        data=data,
        plain="".join(f"<pre>{html.escape(text)}</pre>" for text in (prompt, *map(_answer, read))),
    )
    return found


@cache
def playground(keys: bool) -> tuple[str, str]:
    """Return the page of a server, and its policy (CSP).

    Args:
        keys: Whether the server asks for a key.
    """
    blank = _document("page.html", ("page.css",), ("page.js",), title=_TITLE, data=_DATA, plain="")
    return _document(
        "playground.html",
        ("page.css", "playground.css"),
        ("form.js", "playground.js"),
        connect="'self'",
        keys="yes" if keys else "no",
        blank=json.dumps([blank[0], _TITLE, _DATA]).replace("<", "\\u003c"),
    )


def _document(
    name: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    connect: str = "'none'",
    **values: str,
) -> tuple[str, str]:
    """Return a page whose styles and scripts are in it, and its policy: it may load no others.

    Args:
        name: The file of its HTML among the assets.
        styles: Files of its own styles, in order.
        scripts: Files of its own scripts, in order.
        connect: Where its script may send requests, as the policy says it.
        **values: Further values of the HTML, escaped.
    """
    style = "\n".join(map(_asset, (*STYLES, *styles)))
    code = "\n".join(map(_asset, (*SCRIPTS, *scripts)))
    policy = (
        f"default-src 'none'; script-src {_hash(code)}; style-src {_hash(style)}; "
        f"connect-src {connect}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    html = Template(_asset(name)).substitute(values, style=style, script=code, policy=policy)
    return html, policy


@cache
def _asset(name: str) -> str:
    return files("w2s_chains.tracing").joinpath("assets", name).read_text(encoding="utf-8")


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
