from __future__ import annotations

import csv
import io
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.helpers.studies import rows
from w2s_chains.comparison import Row, Summary, compare_paired, summarize
from w2s_chains.comparison.report.paired import LEAST, ROUGH, bootstrap
from w2s_chains.comparison.report.plots import draw_pareto


def test_a_difference_is_paired_by_prompt_and_seed() -> None:
    base = rows("a", {(0, 0): 0.0, (0, 1): 5.0, (1, 0): 10.0, (2, 0): 0.0})
    other = rows("b", {(0, 0): 1.0, (0, 1): 8.0, (1, 0): 10.0, (3, 0): 99.0})
    random.Random(0).shuffle(other)
    found = compare_paired(other, base, "gold")
    assert found is not None
    assert found.mean == pytest.approx(((1 + 3) / 2 + 0) / 2)  # seeds of a prompt are averaged
    assert found.win_rate == pytest.approx((1 + 1 + 0.5) / 3)
    assert found.prompts == 2
    assert found.low <= found.mean <= found.high


def test_what_is_missing_is_left_out() -> None:
    base = rows("a", {(0, 0): 1.0, (1, 0): 1.0})
    other = rows("b", {(0, 0): None, (1, 0): 3.0})
    found = compare_paired(other, base, "gold")
    assert found is not None
    assert (found.mean, found.prompts) == (2.0, 1)
    assert compare_paired(rows("b", {(0, 0): None}), base, "gold") is None


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(60):
        _, low, high = bootstrap(list(rng.normal(0.3, 1.0, 60)))
        covered += low <= 0.3 <= high
    assert 51 <= covered <= 60  # 95% of 60 is 57, two and a half standard errors are 4 to 5


def test_the_interval_resamples_prompts_not_answers() -> None:
    """Control: ten seeds of one prompt are no ten prompts."""
    base = rows("a", {(i, s): 0.0 for i in range(4) for s in range(10)})
    other = rows("b", {(i, s): float(i) for i in range(4) for s in range(10)})
    once = compare_paired(rows("b", {(i, 0): float(i) for i in range(4)}), base, "gold")
    found = compare_paired(other, base, "gold")
    assert found is not None
    assert once is not None
    assert (found.low, found.high) == (once.low, once.high)


def test_the_table_has_everything() -> None:
    a = rows("a", {(i, 0): float(i) for i in range(5)})
    b = rows("b|c", {(i, 0): float(i + 1) for i in range(5)})
    b.append(Row(config="b|c", seed=0, index=5, prompt="p5", errors={"answer": "PromptError: x"}))
    found = summarize([*b, *a], ["a", "b|c"], ["gold"], "a")
    markdown = found.markdown()
    header, _, first, second, *_ = markdown.splitlines()
    assert header == (
        "| config | gold | difference | win | answers | failed | guide score | repetition "
        "| loglikelihood | candidate tokens | guide tokens |"
    )
    assert first == "| a | 2.00 |  |  | 5 | 0 | 1.00 | 0.50 | -2.00 | 10 | 20 |"
    assert second.startswith("| b\\|c | 3.00 | +1.00 [too few prompts] | 100% | 5 | 1 | 1.00 |")
    assert "bootstrap" in markdown
    parsed = list(csv.DictReader(io.StringIO(found.csv())))
    assert parsed[1]["gold_difference"] == "1"
    assert parsed[1]["gold_win_rate"] == "1"
    assert parsed[0]["gold_difference"] == ""
    assert parsed[1]["loglikelihood"] == "-2"


def test_a_config_without_answers_has_empty_cells() -> None:
    failed = [Row(config="b", seed=0, index=0, prompt="p", errors={"answer": "boom"})]
    found = summarize([*rows("a", {(0, 0): 1.0}), *failed], ["a", "b"], ["gold"], "a")
    assert math.isnan(found.lines[1].means["gold"])
    assert "| b |  |  |  | 0 | 1 |  |" in found.markdown()


def test_a_table_without_rewards_still_shows_over_optimisation() -> None:
    found = summarize(rows("a", {(0, 0): 1.0}), ["a"], [], "a")
    assert found.markdown().startswith("| config | answers | guide score | repetition |")


def test_the_divergence_has_a_column_where_there_is_one() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    old = summarize([*rows("a", golds), *rows("b", golds)], ["a", "b"], ["gold"], "a")
    new = summarize([*rows("a", golds), *rows("b", golds, kl=2.5)], ["a", "b"], ["gold"], "a")
    for text in (old.markdown(), old.csv()):
        assert "kl" not in text.lower(), "rows of older versions have none"
    assert dict(new.legend)["KL"].startswith("to the frozen model")
    a, b = csv.DictReader(io.StringIO(new.csv()))
    assert (a["kl"], b["kl"]) == ("", "2.5")
    header, _, _, row = new.markdown().splitlines()[:4]
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["KL"] == "2.50"


NEW: dict[str, Any] = {"read_tokens": 7, "rounds": 3, "guide_flops_ratio": 0.0153}


def cells_of(found: Summary) -> list[dict[str, str]]:
    header, _, *lines = found.markdown().split("\n\n")[0].splitlines()
    return [
        dict(zip(header.strip("| ").split(" | "), line[2:-2].split(" | "), strict=True))
        for line in lines
    ]


def test_rows_read_are_the_cost() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    found = summarize(rows("a", golds, **NEW), ["a"], ["gold"], "a")
    [cells] = cells_of(found)
    assert [*cells][-4:] == ["rows read", "rounds", "guide tokens", "guide FLOPs"]
    assert [*cells.values()][-4:] == ["7", "3", "20", "1.5%"]
    assert "andidate" not in found.markdown(), "candidates are no cost"
    [line] = csv.DictReader(io.StringIO(found.csv()))
    assert [line[name] for name in ("read_tokens", "rounds", "proposed_tokens")] == ["7", "3", "10"]
    assert [line[name] for name in ("guide_tokens", "guide_flops_ratio")] == ["20", "0.0153"]
    served = summarize(rows("a", golds, read_tokens=7, rounds=3), ["a"], ["gold"], "a")
    assert [*cells_of(served)[0]][-2:] == ["rounds", "guide tokens"], "of an unknown size"


def test_rows_of_older_versions_are_blank_and_not_zero() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    old = rows("old", golds)
    assert (
        "read_tokens"
        not in Row.model_validate(old[0].model_dump(exclude_unset=True)).model_fields_set
    )
    found = summarize(old, ["old"], ["gold"], "old")
    [cells] = cells_of(found)
    assert [*cells][-2:] == ["candidate tokens", "guide tokens"]
    assert [*cells.values()][-2:] == ["10", "20"]
    [line] = csv.DictReader(io.StringIO(found.csv()))
    assert line["read_tokens"] == line["rounds"] == line["guide_flops_ratio"] == ""


def test_old_and_new_costs_never_mix() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    old, new = rows("old", golds), rows("new", golds, **NEW)
    partly = [*rows("partly", {(0, 0): 1.0}), *rows("partly", {(1, 0): 1.0}, **NEW)]
    found = summarize([*old, *new, *partly], ["old", "new", "partly"], ["gold"], "old")
    for cells in cells_of(found):
        wanted = ["7", "3", "20", "1.5%"] if cells["config"] == "new" else [""] * 4
        assert [*cells.values()][-4:] == wanted
    assert [line.costs["proposed_tokens"] for line in found.lines] == [10, 10, 10]
    figure = draw_pareto([*old, *new, *partly], found, "gold")
    assert figure is not None
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["new"]
    assert "2 configs without" in axes.get_title(loc="left")


def test_seconds_have_a_column_where_all_answers_were_timed() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    timed, untimed = rows("a", golds, seconds=1.25, **NEW), rows("b", golds, **NEW)
    found = summarize([*timed, *untimed], ["a", "b"], ["gold"], "a")
    assert [cells["seconds"] for cells in cells_of(found)] == ["1.25", ""]
    assert [line["seconds"] for line in csv.DictReader(io.StringIO(found.csv()))] == ["1.25", ""]
    assert "do not compare it with other runs" in dict(found.legend)["seconds"]
    assert "seconds" not in cells_of(summarize(untimed, ["b"], ["gold"], "b"))[0]


def test_the_legend_explains_each_column_that_is_there_and_no_other() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0, (1, 0): 1.0}
    full = rows("a", golds, kl=1.0, seconds=0.5, **NEW)
    failed = Row(config="b", seed=0, index=0, prompt="p0", errors={"answer": "boom"})
    for found in (
        summarize([*full, failed], ["a", "b"], ["gold"], "a"),
        summarize(rows("a", golds), ["a"], ["gold"], "a"),
        summarize(rows("a", golds), ["a"], [], "a"),
        wide(20),
    ):
        titles = [name for header, _ in found.tables() for name in header[1:]]
        explained = [name for name, _ in found.legend]
        assert sorted(explained) == sorted(set(titles))
        for name, meaning in found.legend:
            told = ("is better", "cheaper", "faster", "closer", "no difference", "minus that of")
            assert any(word in meaning for word in told)
            assert f"* {name}: {meaning}" in found.markdown()


def test_a_reward_says_what_it_means_even_if_it_is_called_like_a_column() -> None:
    golds: dict[tuple[int, int], float | None] = {(0, 0): 0.0}
    own = [row.model_copy(update={"rewards": {"rounds": 3.0}}) for row in rows("a", golds, **NEW)]
    found = summarize(own, ["a"], ["rounds"], "a", {"rounds": "of a drink"})
    assert [meaning for name, meaning in found.legend if name == "rounds"] == [
        "of a drink", "steps per answer that wait for one another; lower is faster",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (2, "2 prompts: too few to say which config is better."),
        (LEAST - 1, "7 prompts: too few to say"),
        (LEAST, "8 prompts: so few that the intervals are rough"),
        (ROUGH - 1, "19 prompts: so few"),
        (ROUGH, "20 prompts."),
    ],
)
def test_too_few_prompts_are_told_in_words(prompts: int, told: str) -> None:
    golds: dict[tuple[int, int], float | None] = {
        (i, s): i % 3 for i in range(prompts) for s in (0, 1)
    }
    found = summarize([*rows("a", golds), *rows("b", golds)], ["a", "b"], ["gold"], "a")
    assert found.caption.startswith(told)
    assert told in found.markdown()
    assert ("[too few prompts]" in found.markdown()) == (prompts < LEAST)
    alone = summarize(rows("a", golds), ["a"], ["gold"], "a")
    assert alone.caption == f"{prompts} prompts.", "one config has no intervals"


def test_what_counts_is_the_prompts_that_a_pair_shares() -> None:
    golds: dict[tuple[int, int], float | None] = {(i, 0): 1.0 for i in range(30)}
    some = rows("b", {(i, 0): 2.0 for i in range(5)})
    found = summarize([*rows("a", golds), *some], ["a", "b"], ["gold"], "a")
    assert found.caption.startswith("30 prompts, but only 5 that a config shares with 'a': too few")


@pytest.mark.parametrize(("prompts", "least"), [(LEAST - 1, 0.0), (LEAST, 0.85), (ROUGH, 0.9)])
def test_the_limits_are_where_intervals_begin_to_hold(prompts: int, least: float) -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        _, low, high = bootstrap(list(rng.normal(0.3, 1.0, prompts)))
        covered += low <= 0.3 <= high
    assert least <= covered / 400 <= (0.9 if prompts < LEAST else 0.96)


def wide(rewards: int, scale: float = 10.0) -> Summary:
    rng = random.Random(0)
    names = [f"reward-{i}" for i in range(rewards)]
    answers = [
        row.model_copy(
            update={
                "rewards": {"repetition": 0.5, **{n: (rng.random() - 0.5) * scale for n in names}},
                "read_tokens": 2396,
                "seconds": 12.345,
                "rounds": 12,
                "guide_tokens": 123_456,
                "guide_flops_ratio": 0.123,
            }
        )
        for config in ("a", "beam width=4 successors=4", "[bold]all:smile:", "eft")
        for row in rows(config, {(i, 0): None for i in range(3)}, kl=2.25)
    ]
    configs = list(dict.fromkeys(row.config for row in answers))
    return summarize(answers, configs, names, "a")


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 300])
@pytest.mark.parametrize("rewards", [0, 1, 2, 20])
@pytest.mark.parametrize("scale", [10.0, 1e9, 1e200])
def test_no_number_is_ever_cut(
    columns: int, rewards: int, scale: float, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """At 80 columns 2396 was shown as 239; in a pipe, of 20 rewards four had no number at all."""
    monkeypatch.setenv("COLUMNS", str(columns))
    found = wide(rewards, scale)
    found.print()
    printed = capsys.readouterr().out
    shown = Counter(printed.split())
    for header, lines in found.tables():
        for name in header[1:]:
            assert all(word in shown for word in name.split())
        for line in lines:
            cells = Counter(" ".join(line[1:]).split())
            assert not cells - shown, "control: a cut number is another word"
            shown -= cells
            assert line[0] in printed
    if rewards == 2 and scale == 10.0:
        longest = max(map(len, printed.splitlines()))
        assert longest <= max(columns, 60), "only what cannot be divided is wider than the terminal"


def test_what_fits_stays_one_table(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    wide(2).print()
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" config ")]
    assert len(titles) == 3  # rewards, answers, costs


def test_a_mean_over_nothing_is_empty(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    failed = [Row(config="a", seed=0, index=0, prompt="p", errors={"answer": "boom"})]
    found = summarize(failed, ["a"], ["gold"], "a")
    found.print()
    assert "nan" not in capsys.readouterr().out + found.markdown() + found.csv()
