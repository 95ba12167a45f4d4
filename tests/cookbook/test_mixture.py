"""The Pareto curve of the committed rows: both ends are where they should be."""

from __future__ import annotations

import pytest

from cookbook.controlled_sentiment.reproduce import STUDY
from cookbook.mixture.trace import BASE, PROMPTS, RESULTS, SEED, WEIGHTS, few_words, name_of, pareto
from w2s_chains.comparison import Comparison, Row, compare_paired, load_study, summarize
from w2s_chains.comparison.rows import JsonLines
from w2s_chains.rewards import Length

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
    rewards = [*load_study(STUDY).rewards, Length()]
    meanings = {reward.column: reward.meaning for reward in rewards}
    summary = summarize(flat, list(rows), list(meanings), BASE, meanings)
    found = Comparison(rows=tuple(flat), summary=summary, folder=RESULTS)
    assert (RESULTS / "summary.md").read_text() == found.markdown()
    assert len(pareto(flat).axes) == 2


def test_weights_trade_praise_for_brevity(rows: Rows) -> None:
    praise, *_, brevity = (rows[name_of(weight)] for weight in WEIGHTS)
    for column in ("gold", "length"):
        difference = compare_paired(praise, brevity, column)
        assert difference is not None
        assert difference.low > 0, "each end is better at what it is for"
    words = [sum(r.rewards["length"] or 0 for r in rows[name_of(w)]) for w in WEIGHTS]
    assert words == sorted(words, reverse=True), "more weight on brevity, fewer words"
