"""The page of a server in a real browser."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers.browser import Window, lightness, scrolls_sideways, started, visible, window
from tests.helpers.llms import wait_for_engine
from tests.helpers.polling import until
from tests.helpers.serving import serving
from w2s_chains import W2SLLM, ChatW2S, ChunkBeamSearch
from w2s_chains.serving.catalog import Served

SCRIPT = "<script>hacked = 1</script><img src=x onerror='hacked = 1'></textarea></script>"


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with started() as browser:
        yield browser


@contextmanager
def opened(browser: Browser, client: httpx.Client, **options: Any) -> Iterator[Window]:
    with window(browser, str(client.base_url), offline=False, **options) as it:
        yield it


def search(page: Page, prompt: str = "It was") -> None:
    page.get_by_role("textbox", name="Prompt").fill(prompt)
    page.get_by_role("button", name="Search", exact=True).click()


def over(page: Page) -> None:
    """Wait until all searches are over."""
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_enabled(timeout=30_000)


def answers(page: Page) -> list[str]:
    return [one.inner_text() for one in page.locator(".card > .answer").all()]


def test_text_and_tree_grow(browser: Browser, client: httpx.Client, llm: W2SLLM) -> None:
    with opened(browser, client) as it:
        page = it.page
        page.evaluate(
            "seen = new Set(); new MutationObserver(() => seen.add(document.querySelectorAll("
            "'[role=treeitem]').length)).observe(document.body, {subtree: true, childList: true})"
        )
        search(page)
        over(page)
        trace = llm.trace("It was")
        assert trace.answer
        assert page.locator(".card > .answer").text_content() == visible(trace.answer.text)
        assert page.get_by_role("treeitem").count() == len(trace.nodes)
        assert len(page.evaluate("[...seen]")) > len(trace.rounds)
        assert page.locator(".row.answer").count() == len(trace.path(trace.answer.id))
        assert it.complaints == []
        assert {httpx.URL(url).host for url in it.requests} == {"127.0.0.1"}


def test_strategies_change_and_stand_side_by_side(
    browser: Browser, client: httpx.Client, llm: W2SLLM
) -> None:
    with opened(browser, client) as it:
        page = it.page
        page.get_by_label("width, W, exactly").fill("3")
        page.get_by_label("chunk tokens, L", exact=True).fill("6")
        page.get_by_label("temperature, exactly").fill("0.8")
        page.get_by_role("button", name="Compare").click()
        page.get_by_label("Strategy", exact=True).nth(1).select_option("best_of_n")
        page.get_by_label("n, exactly").fill("5")
        page.get_by_text("Config, to copy").click()
        config = page.get_by_label("Config", exact=True).inner_text()
        assert "width: 3" in config
        assert "temperature: 0.8" in config
        search(page)
        over(page)
        beam = ChunkBeamSearch(width=3, successors=2, chunk_tokens=6)
        traces = [
            llm.trace("It was", strategy=strategy, temperature=0.8)
            for strategy in (beam, {"type": "best_of_n", "n": 5})
        ]
        shown = [one.text_content() for one in page.locator(".card > .answer").all()]
        assert shown == [visible(trace.answer.text) for trace in traces if trace.answer]
        page.get_by_role("button", name="Best of N").click()
        assert "5 candidates" in page.locator(".says").inner_text()
        assert page.locator(".costs thead").inner_text().split("\t")[1:3] == [
            "Chunk beam",
            "Best of N",
        ]
        assert it.complaints == []


def test_a_trace_is_saved_and_opens_from_disk(
    browser: Browser, client: httpx.Client, tmp_path: Path
) -> None:
    with opened(browser, client) as it:
        page = it.page
        search(page, SCRIPT)
        over(page)
        before = answers(page)
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as a page").click()
        download.value.save_as(tmp_path / "trace.html")
        assert it.complaints == []
    with window(browser, tmp_path / "trace.html") as it:
        assert answers(it.page) == before
        assert it.page.locator(".prompt").inner_text() == SCRIPT
        assert it.page.title() == f"Trace: {SCRIPT[:80]}"
        assert it.page.evaluate("typeof hacked") == "undefined"
        assert len(it.requests) == 1
        assert it.complaints == []


def test_a_script_is_text(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, client) as it:
        search(it.page, SCRIPT)
        over(it.page)
        assert it.page.locator(".whole").inner_text().startswith(SCRIPT)
        assert it.page.evaluate("typeof hacked") == "undefined"
        assert it.complaints == []


def test_a_chat(browser: Browser, client: httpx.Client, chat: ChatW2S) -> None:
    with opened(browser, client) as it:
        page = it.page
        page.get_by_label("model").select_option("chat")
        page.get_by_label("System message").fill("Be brief.")
        search(page, "What is it?")
        over(page)
        trace = chat.trace([("system", "Be brief."), ("human", "What is it?")])
        assert trace.answer
        assert page.locator(".card > .answer").text_content() == visible(trace.answer.text)
        assert it.complaints == []


def test_stop_ends_the_search(browser: Browser, llm: W2SLLM, chat: ChatW2S) -> None:
    with serving(Served(name="raw", model=llm)) as client, opened(browser, client) as it:
        page = it.page
        page.get_by_label("max tokens, exactly").fill("1500")
        search(page)
        page.get_by_role("treeitem").nth(3).wait_for()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".card")).to_contain_text("Stopped.")
        over(page)
        until(lambda: client.get("/health").json()["running"] == 0)
        wait_for_engine()
        search(page)
        page.get_by_role("treeitem").nth(3).wait_for()
        page.get_by_role("button", name="Stop").click()


def test_a_key_is_asked_for_and_kept_in_memory(browser: Browser, llm: W2SLLM) -> None:
    with (
        serving(Served(name="raw", model=llm), keys=["secret"]) as client,
        opened(browser, client) as it,
    ):
        page = it.page
        field = page.get_by_label("Key of the server")
        field.fill("wrong")
        field.press("Enter")
        expect(page.get_by_role("alert").first).to_contain_text("a key is missing or wrong")
        field.fill("secret")
        field.press("Enter")
        search(page)
        over(page)
        assert page.locator(".card > .answer").inner_text()
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]
        assert not any("secret" in url for url in it.requests)


def test_errors_are_told(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, client) as it:
        page = it.page
        page.get_by_label("temperature, exactly").fill("-1")
        page.locator("form.setup-form").evaluate("form => form.noValidate = true")
        search(page)
        alert = page.locator(".card [role=alert]")
        expect(alert).to_contain_text("temperature")
        over(page)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_on_a_phone_dark_and_light(
    browser: Browser, client: httpx.Client, width: int, dark: bool
) -> None:
    with opened(browser, client, width=width, dark=dark) as it:
        page = it.page
        assert (lightness(page) < 60) is dark
        assert not scrolls_sideways(page)
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("Config, to copy").click()
        search(page)
        over(page)
        assert not scrolls_sideways(page)
        assert it.complaints == []


def test_the_keyboard_is_enough(browser: Browser, client: httpx.Client) -> None:
    with opened(browser, client) as it:
        page = it.page
        expect(page.get_by_role("textbox", name="Prompt")).to_be_focused()
        page.keyboard.type("It was")
        page.keyboard.press("Control+Enter")
        over(page)
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.role") == "tree":
                break
        page.keyboard.press("ArrowLeft")
        id = page.get_by_role("tree").get_attribute("aria-activedescendant")
        assert re.search(r"score", page.locator(f"#{id}").get_attribute("aria-label") or "")


def test_nothing_is_told_without_a_key(llm: W2SLLM) -> None:
    with serving(Served(name="raw", model=llm), keys=["secret"]) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "raw" not in re.findall(r'"name": ?"(\w+)"', page.text)
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert client.get("/v1/w2s/models").status_code == 401
