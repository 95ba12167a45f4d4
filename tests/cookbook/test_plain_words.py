"""Guides that nobody trained: the judge, the study, and the committed rows."""

from __future__ import annotations

import pytest

from cookbook.plain_words.reproduce import HERE, plainness
from w2s_chains.comparison import Row, load_study
from w2s_chains.comparison.rows import JsonLines


def test_short_words_in_short_sentences_are_plainer() -> None:
    plain = "The sun is hot. It is a big ball of gas."
    hard = "Photosynthesis constitutes a biochemical transformation of electromagnetic radiation."
    values = plainness(["", ""], [plain, hard])
    assert values[0] > values[1]
    words, letters = 11, sum(len(word) for word in plain.replace(".", "").split())
    assert values[0] == pytest.approx(21.43 - 4.71 * letters / words - 0.5 * words / 2)
    with pytest.raises(ValueError, match="without words"):
        plainness([""], [" ... "])


def test_the_committed_rows_are_those_of_the_study() -> None:
    study = load_study(HERE / "study.yaml")
    prompts = study.read_prompts()
    rows = JsonLines(HERE / "results" / "rows.jsonl", Row).read()
    assert [(row.config, row.index) for row in rows] == [
        (name, index) for name in study.configs for index in range(len(prompts))
    ]
    judged = [row for row in rows if "plainness" not in row.errors]
    assert len(judged) > 0.95 * len(rows)
    values = plainness([row.prompt for row in judged], [row.text or "" for row in judged])
    assert values == pytest.approx([row.rewards["plainness"] for row in judged])
