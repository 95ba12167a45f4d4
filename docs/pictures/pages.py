"""Photographs the page of a trace and that of a server: real searches, in a real browser.

python docs/pictures/pages.py     # writes trace, strategies and serve, light and dark (PNG)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from tests.helpers.browser import started, window
from tests.helpers.serving import serving
from w2s_chains import W2SLLM, BestOfN, ChunkBeamSearch, Guides, Model, TokenSearch
from w2s_chains.serving.catalog import Served

FOLDER = Path(__file__).parent
PROMPT = "Although God Is Great"
LOOKS = ("light", "dark")


def model() -> W2SLLM:
    """The model that all pictures are of."""
    return W2SLLM(
        proposer=Model(
            "embedded:smollm2-135m-instruct", template="Here is a movie review: {prompt}"
        ),
        guides=Guides(tuned="embedded:reviews-tuned", untuned="embedded:reviews-untuned"),
        strategy=ChunkBeamSearch(width=4, successors=4, chunk_tokens=5),
        max_tokens=50,
        temperature=0.7,
        seed=0,
    )


def shoot(page: Page, name: str, look: str) -> None:
    """Write a picture, with 256 colours."""
    path = FOLDER / f"{name}-{look}.png"
    page.wait_for_timeout(300)
    page.screenshot(path=path)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def traces(browser: Browser, llm: W2SLLM, folder: Path) -> None:
    """Write pictures of one trace, and of several side by side."""
    beam, best, token = (
        llm.trace(PROMPT, strategy=one) for one in (llm.strategy, BestOfN(n=16), TokenSearch())
    )
    beam.save(folder / "trace.html")
    beam.save(folder / "strategies.html", best, token)
    for name, width, height in (("trace", 1100, 1010), ("strategies", 1280, 850)):
        for look in LOOKS:
            page = folder / f"{name}.html"
            with window(browser, page, width=width, height=height, dark=look == "dark") as it:
                shoot(it.page, name, look)


def server(browser: Browser, llm: W2SLLM) -> None:
    """Write pictures of the page of a server, after a search with two strategies."""
    with serving(Served(name="reviews", model=llm)) as client:
        for look in LOOKS:
            address = str(client.base_url)
            with window(browser, address, height=1010, dark=look == "dark", offline=False) as it:
                it.page.get_by_role("textbox", name="Prompt").fill(PROMPT)
                it.page.get_by_role("button", name="Compare").click()
                it.page.get_by_role("button", name="Search", exact=True).click()
                it.page.locator("button.main:enabled").wait_for(timeout=300_000)
                shoot(it.page, "serve", look)


def main() -> None:
    """Write all pictures."""
    llm = model()
    with tempfile.TemporaryDirectory() as folder, started() as browser:
        traces(browser, llm, Path(folder))
        server(browser, llm)


if __name__ == "__main__":
    main()
