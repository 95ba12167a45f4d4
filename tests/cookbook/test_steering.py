"""The claim of the paper on the embedded models: a tiny pair steers the large frozen model.

Slow (minutes): held-out prompts through the real models. The judge has seen neither prompts nor
guides. The whole experiment is ``make reproduce``.
"""

from __future__ import annotations

import numpy as np
import pytest

from cookbook.controlled_sentiment.demo import CONTROLS, MAIN, part_of_study
from w2s_chains.comparison import Row, compare, compare_paired

BASE, BEST_OF_16, BEAM = MAIN
SWAPPED, EQUAL = CONTROLS

pytestmark = pytest.mark.slow

Rows = dict[str, list[Row]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = tmp_path_factory.mktemp("steering")
    found: Rows = {}
    for names, prompts in ((MAIN, 4), ((SWAPPED,), 3), ((EQUAL,), 1)):
        made = compare(part_of_study(names, prompts, 1), out=folder, plots=False).rows
        found |= {name: [row for row in made if row.config == name] for name in names}
    return found


def gold(rows: list[Row]) -> list[float]:
    return [row.rewards["gold"] or 0.0 for row in rows]


def test_chunk_beam_beats_base_by_a_wide_margin(rows: Rows) -> None:
    gain = compare_paired(rows[BEAM], rows[BASE], "gold")
    assert gain is not None
    assert gain.mean >= 1.3 * np.std(gold(rows[BASE]), ddof=1)
    assert gain.low > 0


def test_chunk_beam_beats_best_of_16_and_reads_less(rows: Rows) -> None:
    gain = compare_paired(rows[BEAM], rows[BEST_OF_16], "gold")
    assert gain is not None
    assert gain.mean > 0
    read = [sum(row.read_tokens or 0 for row in rows[name]) for name in (BEAM, BEST_OF_16)]
    assert 0 < read[0] < read[1]


def test_swapped_guides_steer_below_the_base(rows: Rows) -> None:
    loss = compare_paired(rows[SWAPPED], rows[BASE], "gold")
    gain = compare_paired(rows[BEAM], rows[BASE], "gold")
    assert loss is not None
    assert gain is not None
    assert loss.mean < 0
    assert loss.high < gain.low


def test_equal_guides_score_exactly_zero(rows: Rows) -> None:
    assert {row.guide_score for row in rows[EQUAL]} == {0.0}
    assert all(row.guide_score for row in rows[BEAM])
