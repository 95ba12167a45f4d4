from __future__ import annotations

import pytest

from tests.helpers.studies import rows
from w2s_chains.comparison import Row, Summary, summarize
from w2s_chains.comparison.report.samples import markdown_answers, pick, print_answers


def study(prompts: int, configs: int = 2, **fields: object) -> tuple[list[Row], Summary]:
    names = [f"config {n}" for n in range(configs)]
    found = [
        row.model_copy(update={"text": f" {name} says {row.index}", **fields})
        for name in names
        for row in rows(name, {(i, s): i + s / 10 for i in range(prompts) for s in (3, 1)})
    ]
    return found, summarize(found, names, ["gold"], names[0])


@pytest.mark.parametrize(
    ("prompts", "places"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (11, [0, 5, 10])]
)
def test_prompts_are_spread(prompts: int, places: list[int]) -> None:
    picked = pick(*study(prompts))
    assert [[row.index for row in own] for own in picked] == [[place] * 2 for place in places]
    assert {row.seed for own in picked for row in own} == {1}, "the first seed, in any order"


def test_prompts_that_all_have_answered_come_first() -> None:
    found, summary = study(5)
    failed = [
        row.model_copy(update={"text": None, "errors": {"answer": "boom"}})
        if row.index in (0, 4) and row.config == "config 1"
        else row
        for row in found
    ]
    assert [own[0].index for own in pick(failed, summary)] == [1, 2, 3]
    all_failed = [row.model_copy(update={"text": None}) for row in found]
    assert pick(all_failed, summary) == []
    assert markdown_answers(all_failed, summary) == ""


def test_answers_stand_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found, summary = study(11)
    print_answers(found, summary)
    printed = capsys.readouterr().out
    assert "Answers to 3 of 11 prompts" in printed
    assert "Prompt 5: p5\nconfig    gold  answer" in printed
    lines = [line.rstrip() for line in printed.splitlines()]
    assert "config 0  5.10  config 0 says 5" in lines
    markdown = markdown_answers(found, summary)
    assert "**Prompt 5:** p5\n\n| config | gold | answer |\n| --- | ---: | --- |\n" in markdown
    assert "| config 1 | 5.10 | config 1 says 5 |" in markdown


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_markup_and_escapes_are_shown_as_they_are(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    found, summary = study(1, text="[bold]b[/bold] [/x] \x1b[31m :smile:\n\n# title")
    print_answers(found, summary)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= columns
    if columns >= 80:
        assert "[bold]b[/bold] [/x] \\x1b[31m :smile: # title" in printed


def test_long_answers_and_many_configs_do_not_flood_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for configs in (2, 12, 30):
        found, summary = study(9, configs, text="word " * 2000, prompt="p " * 2000)
        print_answers(found, summary)
        assert len(capsys.readouterr().out.splitlines()) < 150
        markdown = markdown_answers(found, summary)
        assert max(map(len, markdown.splitlines())) < 1100
        assert markdown.count("**Prompt") == 3
    assert "…" in markdown


def test_an_answer_without_text_says_so(capsys) -> None:
    found, summary = study(1, text=" \n")
    found[0] = found[0].model_copy(update={"text": None, "errors": {"answer": "PromptError: x"}})
    found[1] = found[0].model_copy(update={"seed": 1})
    print_answers(found, summary)
    printed = capsys.readouterr().out
    assert "(no answer: PromptError: x)" in printed
    assert "(empty)" in printed
