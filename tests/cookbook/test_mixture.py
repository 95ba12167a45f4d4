"""The Pareto curve of the committed rows: both ends are where they should be."""

from __future__ import annotations

import pytest

from cookbook.mixture.trace import BASE, PROMPTS, RESULTS, SEED, WEIGHTS, few_words, name_of, pareto
from w2s_chains.comparison import Row, compare_paired, summarize
from w2s_chains.comparison.rows import JsonLines

Rows = dict[str, list[Row]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    found: Rows = {}
    for row in JsonLines(RESULTS / "rows.jsonl", Row).read():
        found.setdefault(row.config, []).append(row)
    return found


def test_the_rows_are_complete_and_the_table_is_made_of_them(rows: Rows) -> None:
    assert list(rows) == [BASE, *map(name_of, WEIGHTS)]
    for own in rows.values():
        assert [(row.seed, row.index) for row in own] == [(SEED, i) for i in range(PROMPTS)]
        words = few_words([""] * len(own), [row.text or "" for row in own])
        assert [-count for count in words] == [row.rewards["length"] for row in own]
    flat = [row for own in rows.values() for row in own]
    summary = summarize(flat, list(rows), ["gold", "vader", "length"], BASE)
    assert (RESULTS / "summary.md").read_text() == summary.markdown()
    assert len(pareto(flat).axes) == 2


def test_weights_trade_praise_for_brevity(rows: Rows) -> None:
    praise, *_, brevity = (rows[name_of(weight)] for weight in WEIGHTS)
    for column in ("gold", "length"):
        difference = compare_paired(praise, brevity, column)
        assert difference is not None
        assert difference.low > 0, "each end is better at what it is for"
    words = [sum(r.rewards["length"] or 0 for r in rows[name_of(w)]) for w in WEIGHTS]
    assert words == sorted(words, reverse=True), "more weight on brevity, fewer words"
