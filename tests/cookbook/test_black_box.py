"""The committed rows of the black box: complete, and the guides steer the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cookbook.black_box.reproduce import HERE
from cookbook.controlled_sentiment.reproduce import prepare
from w2s_chains.comparison import Comparison, Row, compare_paired, load_study
from w2s_chains.comparison.rows import JsonLines
from w2s_chains.comparison.run import summarize_study

RESULTS = HERE / "results"
ALONE, BEAM, BEST, SWAPPED = (
    "the server alone",
    "chunk beam 4,4,5",
    "best-of-16",
    "control, guides swapped",
)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in JsonLines(RESULTS / "rows.jsonl", Row).read():
        found.setdefault(row.config, []).append(row)
    return found


def test_the_rows_are_those_of_the_study(rows: dict[str, list[Row]]) -> None:
    prepare()
    study = load_study(HERE / "study.yaml")
    assert set(rows) == set(study.configs) == {ALONE, BEAM, BEST, SWAPPED}
    prompts = study.read_prompts()
    for name, own in rows.items():
        assert len(own) == len(prompts) * len(study.seeds_of(name))
        assert all(row.prompt == prompts[row.index] and not row.errors for row in own)
    flat = [row for own in rows.values() for row in own]
    summary = summarize_study(study, flat, ALONE)
    found = Comparison(rows=tuple(flat), summary=summary, folder=RESULTS)
    assert (RESULTS / "summary.md").read_text() == found.markdown()
    readme = Path(HERE / "README.md").read_text(encoding="utf-8")
    for name in (BEAM, BEST, SWAPPED):
        gain = compare_paired(rows[name], rows[ALONE], "gold")
        assert gain is not None
        assert f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]" in readme


def test_guides_steer_what_is_behind_the_server(rows: dict[str, list[Row]]) -> None:
    for name, over, sign in ((BEAM, ALONE, 1), (BEAM, BEST, 1), (SWAPPED, ALONE, -1)):
        gain = compare_paired(rows[name], rows[over], "gold")
        assert gain is not None
        assert min(sign * gain.low, sign * gain.high) > 0, (name, over)
