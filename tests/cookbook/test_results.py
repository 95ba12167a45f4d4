"""The committed rows, and what the documentation says about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cookbook.controlled_sentiment import figures
from cookbook.controlled_sentiment.figures import (
    BY_ROWS,
    RESULTS,
    by_rows_table,
    read,
    results_table,
)
from cookbook.controlled_sentiment.reproduce import BY_ROWS_STUDY, PROMPTS, STUDY, prepare
from w2s_chains.comparison import Comparison, Difference, Row, compare_paired, load_study
from w2s_chains.comparison.run import summarize_study

Rows = dict[str, list[Row]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return read()


@pytest.fixture(scope="module")
def by_rows() -> Rows:
    return read(BY_ROWS)


@pytest.mark.parametrize(("folder", "file"), [(RESULTS, STUDY), (BY_ROWS, BY_ROWS_STUDY)])
def test_the_rows_are_those_of_the_study(folder: Path, file: Path) -> None:
    prepare()
    rows, study = read(folder), load_study(file)
    prompts = study.read_prompts()
    assert len(prompts) == PROMPTS >= 100
    assert list(rows) == list(study.configs)
    for name, own in rows.items():
        assert {row.seed for row in own} == set(study.seeds_of(name))
        assert len(own) == PROMPTS * len(study.seeds_of(name))
        assert all(row.prompt == prompts[row.index] for row in own)
        assert not any(row.errors for row in own)


def test_the_tables_are_made_of_the_rows(rows: Rows) -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf-8")
    assert results_table(rows) in page, "run `python -m cookbook.controlled_sentiment.figures`"
    flat = [row for own in rows.values() for row in own]
    summary = summarize_study(load_study(STUDY), flat, "base")
    found = Comparison(rows=tuple(flat), summary=summary, folder=RESULTS)
    assert (RESULTS / "summary.csv").read_text() == summary.csv()
    assert (RESULTS / "summary.md").read_text() == found.markdown()


def test_the_table_by_rows_is_made_of_its_rows(by_rows: Rows) -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf-8")
    assert by_rows_table(by_rows) in page, "run `python -m cookbook.controlled_sentiment.figures`"
    assert all(row.read_tokens is not None for own in by_rows.values() for row in own)


def test_its_prompts_took_no_part_in_the_other_study(rows: Rows, by_rows: Rows) -> None:
    asked, fresh = ({row.prompt for row in found["base"]} for found in (rows, by_rows))
    assert len(fresh) == PROMPTS
    assert not asked & fresh


def test_token_search_gains_more_for_a_fourteenth_of_the_rows(by_rows: Rows) -> None:
    """What docs/results.md says of it."""
    base, beam = by_rows["base"], by_rows["chunk beam 4,4,5"]

    def read_rows(own: list[Row]) -> float:
        return sum(row.read_tokens or 0 for row in own) / len(own)

    def change(name: str, other: list[Row], column: str) -> Difference:
        found = compare_paired(by_rows[name], other, column)
        assert found is not None
        assert found.prompts == PROMPTS
        return found

    for kind in ("", ", fluent", ", distinct", ", balanced"):
        own = by_rows[f"token search 8{kind}"]
        assert {row.seed for row in own} == {row.seed for row in beam} == {0, 1, 2}
        assert change(f"token search 8{kind}", beam, "gold").low > 0
        assert read_rows(beam) > 13.5 * read_rows(own)
    assert change("token search 8", base, "loglikelihood").high < -0.15, "alone it costs fluency"
    balanced = "token search 8, balanced"
    assert change(balanced, base, "loglikelihood").low > -0.15
    assert change(balanced, base, "repetition").high < 0.05
    wide = "beam 12,4,1, fluent"
    assert change(wide, beam, "gold").low > change(balanced, beam, "gold").mean
    assert read_rows(by_rows[wide]) < read_rows(beam)
    for control in ("base, fluent", "base, distinct", "base, balanced"):
        assert change(f"control: {control}", beam, "gold").high < 0


def test_the_rewards_are_those_of_the_judges(rows: Rows) -> None:
    prepare()
    some = [own[i] for own in rows.values() for i in (0, 50, 99)]
    for reward in load_study(STUDY).rewards:
        found = reward.score([row.prompt for row in some], [row.text or "" for row in some])
        assert found == pytest.approx([row.rewards[reward.column] for row in some], abs=1e-6)


def test_chunk_beam_wins_and_the_controls_behave(rows: Rows) -> None:
    def gain(name: str, over: str) -> tuple[float, float]:
        found = compare_paired(rows[name], rows[over], "gold")
        assert found is not None
        return found.low, found.high

    beam, tuned = "chunk beam 4,4,5", "emulated fine-tuning"
    assert gain(beam, "best-of-16")[0] > 0
    for name in rows:
        if name.startswith(tuned):
            assert gain(beam, name)[0] > 0, name
    assert gain("control, guides swapped", "base")[1] < 0
    for name in ("control, two equal guides", "control, random guides"):
        low, high = gain(name, "base")
        assert low <= 0 <= high, name


def test_figures_are_drawn_from_the_rows(rows: Rows) -> None:
    names = [label.get_text() for label in figures.main_figure(rows).axes[0].get_yticklabels()]
    assert any(name.startswith("best-of-16") for name in names)
    assert len(figures.ablation_figure(rows).axes) == 2
