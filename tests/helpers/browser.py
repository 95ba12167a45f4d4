"""A real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Path of the browser; without one, the test fails in CI and is skipped elsewhere."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        why = "no chromium: `apt-get install chromium`, which `make test` does for root"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextmanager
def started() -> Generator[Browser]:
    """A browser; while it runs, its thread can run no event loop of its own."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=root)
        yield browser
        browser.close()


class Window:
    """A page, and what it complained of.

    Attributes:
        page: The page.
        complaints: Errors of scripts, what the console said, and breaches of its policy.
        requests: Addresses that it asked for.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))


@contextmanager
def window(
    browser: Browser,
    address: str | Path,
    *,
    width: int = 1280,
    height: int = 800,
    dark: bool | None = False,
    offline: bool = True,
    scripts: bool = True,
) -> Generator[Window]:
    """Open a page, or a file; up to 500 pixels it is a phone's.

    Args:
        browser: The browser.
        address: What to open.
        width: Of the window, in CSS pixels.
        height: Of the window.
        dark: Whether the system is dark; None leaves that to the pages around a frame.
        offline: Whether the network is off.
        scripts: Whether scripts run.
    """
    phone = width <= 500
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="null" if dark is None else "dark" if dark else "light",
        reduced_motion="reduce",
        has_touch=phone,
        is_mobile=phone,
        offline=offline,
        java_script_enabled=scripts,
    )
    context.set_default_timeout(10_000)
    opened = Window(context.new_page())
    opened.page.goto(address.as_uri() if isinstance(address, Path) else address)
    yield opened
    context.close()


def visible(text: str) -> str:
    """A text as pages show it, with pictures for control characters."""
    shown = [chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text]
    return "".join("\u2421" if c == "\x7f" else c for c in shown).lstrip()


def scrolls_sideways(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def lightness(page: Page, selector: str = "html") -> float:
    """Lightness of a background, from 0 to 255."""
    colour = page.eval_on_selector(selector, "e => getComputedStyle(e).backgroundColor")
    return sum(map(float, colour.split("(")[1].rstrip(")").split(",")[:3])) / 3
