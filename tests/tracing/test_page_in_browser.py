"""The page of a trace in a real browser: opened from disk, with the network off."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page

from tests.helpers.browser import Window, lightness, scrolls_sideways, started, window
from tests.helpers.traces import drawn
from w2s_chains import W2SLLM, Trace
from w2s_chains.proposers import HuggingFaceProposer
from w2s_chains.scorers import LogRatioScorer

Open = Callable[..., AbstractContextManager[Window]]

SCRIPT = "<script>hacked = 1</script><img src=x onerror='hacked = 1'>"
HEBREW = "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd"
HOSTILE = [
    SCRIPT,
    "</script><script>hacked = 1</script>",
    "<!-- <script> ]]> </style></noscript><svg onload=hacked=1>",
    "\u2028hacked\u2029 \u0000\u001b[31m\u007f\u0085",
    "\u202egnp.exe\u2066 " + HEBREW,
    "${hacked} `hacked` $title {{hacked}} &lt;b&gt; &amp; \U0001d4b3\U0001f469\u200d \\u003c",
]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Open:
    def opened(*traces: Trace, **options: Any) -> AbstractContextManager[Window]:
        path = tmp_path / "trace.html"
        traces[0].save(path, *traces[1:])
        return window(browser, path, **options)

    return opened


@pytest.fixture(scope="module")
def beam() -> Trace:
    return drawn(6, 3, 4)


def chosen(page: Page) -> str:
    """What a screen reader says of the candidate that the keyboard is on."""
    id = page.get_by_role("tree").get_attribute("aria-activedescendant")
    return page.locator(f"#{id}").get_attribute("aria-label") or ""


def signed(value: float) -> str:
    shown = f"{value:+.1f}".replace("-", "\u2212")
    return shown if shown.strip("+\u22120.") else "0.0"


def uncertain(page: Page) -> int:
    """Characters of the answer that are shown as not yet certain."""
    return page.evaluate(
        "[...CSS.highlights.get('uncertain')].reduce((n, r) => n + r.endOffset - r.startOffset, 0)"
    )


def rows(page: Page) -> int:
    return page.locator("[role=treeitem]").count()


def test_a_real_search_opens_from_disk_and_asks_for_nothing(
    opened: Open, proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    strategy = {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 3}
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=strategy, max_tokens=9, temperature=1)
    trace = llm.trace("It was")
    with opened(trace) as it:
        assert it.page.title() == "Trace: It was"
        assert rows(it.page) == len(trace.nodes)
        best = trace.answer
        assert best
        assert best.score is not None
        assert f"{best.score:.2f}".replace("-", "\u2212") in it.page.locator(".card").inner_text()
        assert len(it.requests) == 1
        assert it.complaints == []


def test_steps_go_through_the_rounds(opened: Open, beam: Trace) -> None:
    with opened(beam) as it:
        page = it.page
        says, slider = page.locator(".says"), page.get_by_role("slider", name="Round")
        assert "Round 6 of 6" in says.inner_text()
        page.get_by_role("button", name="First round").click()
        assert "Round 1 of 6" in says.inner_text()
        assert rows(page) == 1 + 12
        page.get_by_role("button", name="Next round").click()
        assert "Round 2 of 6 12 candidates, 3 kept" in says.inner_text()
        assert rows(page) == 1 + 24
        page.locator("body").press("ArrowRight")
        assert "Round 3 of 6" in says.inner_text()
        slider.press("ArrowLeft")
        assert "Round 2 of 6" in says.inner_text()
        assert slider.get_attribute("aria-valuetext") == "round 2 of 6"
        assert beam.answer
        assert uncertain(page) == len(beam.answer.text) - beam.rounds[1].committed > 0
        slider.press("End")
        assert uncertain(page) == 0
        assert it.complaints == []


def test_play_steps_by_itself(opened: Open) -> None:
    with opened(drawn(3, 2, 2)) as it:
        page = it.page
        page.get_by_role("button", name="Play").click()
        page.get_by_role("button", name="Pause").wait_for()
        assert "Round 1 of 3" in page.locator(".says").inner_text()
        page.get_by_role("button", name="Play").wait_for()
        assert "Round 3 of 3" in page.locator(".says").inner_text()


def test_the_keyboard_reaches_a_candidate_and_its_score(opened: Open, beam: Trace) -> None:
    with opened(beam) as it:
        page = it.page
        for _ in range(30):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.role") == "tree":
                break
        for _ in range(6):
            page.keyboard.press("ArrowLeft")
        assert chosen(page) == "Prompt"
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Home")
        first = sorted((n for n in beam.nodes if n.round == 1), key=lambda n: -(n.score or 0))
        for node in (first[0], first[1], first[2], first[3]):
            score = f"{node.score:.2f}".replace("-", "\u2212")
            assert chosen(page) == (f"{node.text.strip()}, score {score}, {node.state}, round 1")
            details = page.get_by_label("Candidate", exact=True).inner_text()
            assert score in details
            assert node.text in details
            assert "\u221210.0" in details  # its log p
            page.keyboard.press("ArrowDown")
        page.keyboard.press("End")
        assert chosen(page).startswith(first[-1].text.strip())
        assert "number 12 of 12" in page.get_by_label("Candidate", exact=True).inner_text()
        assert page.locator("[aria-selected=true]").count() == 1
        assert it.complaints == []


def test_the_pointer_looks_and_a_click_stays(opened: Open, beam: Trace) -> None:
    with opened(beam) as it:
        page, details = it.page, it.page.get_by_label("Candidate", exact=True)
        before = details.inner_text()
        other = page.locator("[data-id='7']")
        other.hover()
        assert beam.text(7).strip() in details.inner_text()
        page.locator("h1").hover()
        assert details.inner_text() == before
        other.click()
        page.locator("h1").hover()
        assert beam.text(7).strip() in details.inner_text()
        dot = page.locator(".explorer .overview")
        dot.hover(position={"x": 60, "y": 90})
        assert details.inner_text() != before


def test_words_are_coloured_by_what_the_guides_think(opened: Open, beam: Trace) -> None:
    with opened(beam) as it:
        page = it.page
        answer = page.locator(".card .answer")
        shown = answer.locator(".word").evaluate_all(
            "all => all.map(e => [e.textContent, e.dataset.nats, e.classList.contains('tuned')])"
        )
        assert beam.answer
        ratios = [ratio for node in beam.path(beam.answer.id) for ratio in node.ratios or ()]
        assert shown == [[one.text.strip(), signed(one.ratio), one.ratio >= 0] for one in ratios]
        legend = page.locator(".heat-legend").get_attribute("aria-label") or ""
        assert re.search(r"up to \+\d+ nats", legend)
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.word'),'::after').content")
            == "none"
        )
        page.get_by_label("Numbers at words").check()
        assert "nats" not in page.evaluate(
            "getComputedStyle(document.querySelector('.word'),'::after').content"
        )


def test_strategies_stand_side_by_side(opened: Open, beam: Trace) -> None:
    other = drawn(1, 1, 20, words=8, seed=5, strategy={"type": "best_of_n", "n": 20})
    other = other.model_copy(update={"name": "twenty <b>whole</b>"})
    third = drawn(9, 1, 3, words=1, seed=6, strategy={"type": "token_search", "candidates": 3})
    with opened(beam, other, third) as it:
        page = it.page
        boxes = [card.bounding_box() for card in page.locator(".card").all()]
        assert len({box["y"] for box in boxes if box}) == 1
        head = page.locator(".costs thead").inner_text().split("\t")
        assert [one.strip() for one in head][1:4] == [
            "Chunk beam",
            "twenty <b>whole</b>",
            "Token search",
        ]
        page.get_by_role("button", name="Token search").press("Enter")
        assert "of 9" in page.locator(".says").inner_text()
        assert (
            page.get_by_role("button", name="Token search").get_attribute("aria-pressed") == "true"
        )
        page.locator(".card").nth(1).click(position={"x": 200, "y": 60})
        assert "Round 1 of 1 20 candidates" in page.locator(".says").inner_text()
        assert it.complaints == []


@pytest.mark.parametrize(
    ("shape", "words", "width"),
    [
        pytest.param((1, 1, 1000), 40, 1280, id="best of 1000"),
        pytest.param((1, 1, 1000), 40, 390, id="best of 1000 on a phone"),
        pytest.param((60, 4, 4), 4, 390, id="beam of 60 rounds on a phone"),
        pytest.param((125, 1, 8), 1, 1280, id="125 tokens"),
        pytest.param((625, 4, 4), 4, 1280, id="10,000 nodes"),
    ],
)
def test_large_trees_stay_quick(
    opened: Open, shape: tuple[int, int, int], words: int, width: int
) -> None:
    trace = drawn(*shape, words=words)
    begin = time.perf_counter()
    with opened(trace, width=width) as it:
        page = it.page
        tree = page.get_by_role("tree")
        assert 0 < rows(page) < 250
        assert time.perf_counter() - begin < 10
        tree.focus()
        page.keyboard.press("End")
        worst = chosen(page)
        page.keyboard.press("Home")
        assert chosen(page) != worst
        begin = time.perf_counter()
        for _ in range(20):
            page.keyboard.press("ArrowDown")
        tree.evaluate("e => e.scrollTo(e.scrollWidth / 2, e.scrollHeight / 2)")
        page.wait_for_timeout(50)
        assert 0 < rows(page) < 250
        assert time.perf_counter() - begin < 5
        assert not scrolls_sideways(page)
        assert it.complaints == []


@pytest.mark.parametrize("hostile", HOSTILE)
def test_texts_are_never_markup(opened: Open, hostile: str) -> None:
    plain = drawn(2, 1, 2)
    node = plain.nodes[1].model_copy(update={"text": hostile, "ratios": None})
    nodes = (plain.nodes[0], node, *plain.nodes[2:])
    trace = plain.model_copy(
        update={
            "prompt": ({"role": hostile, "content": hostile},),
            "model": hostile,
            "nodes": nodes,
        }
    )
    with opened(trace) as it:
        page = it.page
        page.locator("[data-id='1']").click()
        page.get_by_text("The tree as a table").click()
        page.get_by_text("Settings").click()
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.locator("img, iframe, main script").count() == 0
        if hostile.isprintable():
            assert page.locator("body").inner_text().count(hostile) >= 5
        assert it.complaints == []


def test_control_an_unescaped_text_is_noticed(browser: Browser, tmp_path: Path) -> None:
    trace = drawn(2, 1, 2).model_copy(update={"prompt": SCRIPT})
    trace.save(tmp_path / "trace.html")
    page = (tmp_path / "trace.html").read_text("utf-8")
    path = tmp_path / "unescaped.html"
    path.write_text(page.replace("</noscript>", f"</noscript>{SCRIPT}"), "utf-8")
    with window(browser, path) as it:  # the policy of the page holds it back, and says so
        assert "Content Security Policy" in "".join(it.complaints)
        assert it.page.evaluate("typeof hacked") == "undefined"
    path.write_text(re.sub("<meta http-equiv.*", "", path.read_text("utf-8")), "utf-8")
    with window(browser, path) as it:
        assert it.page.evaluate("typeof hacked") == "number"


def test_marks_of_direction_can_be_seen(opened: Open) -> None:
    with opened(drawn(1, 1, 2).model_copy(update={"prompt": f"a\u202eb\u0007c\n{HEBREW}"})) as it:
        assert it.page.locator(".prompt").inner_text() == f"a[U+202E]b\u2407c\n{HEBREW}"


def test_dark_and_light(opened: Open, beam: Trace) -> None:
    for dark in (False, True):
        with opened(beam, dark=dark) as it:
            assert (lightness(it.page) < 60) is dark
            it.page.get_by_label("Dark", exact=True).check(force=True)
            assert lightness(it.page) < 60
            it.page.get_by_label("Light", exact=True).check(force=True)
            assert lightness(it.page) > 200


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_no_page_sideways(opened: Open, beam: Trace, width: int) -> None:
    others = [drawn(4, 2, 2, seed=seed) for seed in range(3)]
    for traces in ([beam], [beam, *others]):
        with opened(*traces, width=width) as it:
            page = it.page
            assert not scrolls_sideways(page)
            page.get_by_text("The tree as a table").tap()
            page.get_by_text("Settings", exact=True).tap()
            assert not scrolls_sideways(page)
            page.locator("[data-id='2']").tap()
            assert beam.text(2).strip() in page.get_by_label("Candidate", exact=True).inner_text()


def test_the_tree_as_a_table(opened: Open, beam: Trace) -> None:
    with opened(beam) as it:
        it.page.get_by_text("The tree as a table").click()
        assert it.page.locator(".as-text tbody tr").count() == len(beam.nodes) - 1


def test_without_scripts_the_answer_is_there(opened: Open, beam: Trace) -> None:
    with opened(beam, scripts=False) as it:
        shown = it.page.locator("body").inner_text()
        assert beam.answer
        assert beam.answer.text in shown
        assert "Although God Is Great" in shown


def test_a_search_without_scores_or_answer(opened: Open, beam: Trace) -> None:
    bare = {"score": None, "ratios": None, "finish_reason": None}
    nodes = tuple(node.model_copy(update=bare) for node in beam.nodes)
    with opened(beam.model_copy(update={"nodes": nodes, "answer": None})) as it:
        assert rows(it.page) > 12
        it.page.get_by_role("tree").evaluate("e => e.scrollTo(e.scrollWidth, 0)")
        it.page.locator(".row.open").nth(11).wait_for()
        assert it.complaints == []


@pytest.mark.parametrize("dark", [False, True])
def test_in_a_notebook_it_is_a_frame_of_its_own(
    browser: Browser, tmp_path: Path, beam: Trace, dark: bool
) -> None:
    path = tmp_path / "notebook.html"
    light = "false" if dark else "true"
    cell = beam._repr_html_()
    path.write_text(f"<!doctype html><body data-jp-theme-light={light}>{cell}", "utf-8")
    with window(browser, path, dark=None) as it:
        frame = it.page.frame_locator("iframe")
        frame.get_by_role("tree").wait_for()
        inner = it.page.frames[1]
        colour = inner.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert (int(re.findall(r"\d+", colour)[0]) < 60) is dark
        with pytest.raises(Error, match="cross-origin"):
            inner.evaluate("parent.document.title")
        assert it.complaints == []
    assert html.escape("<script") in cell
