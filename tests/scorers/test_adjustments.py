"""What scores are divided by."""

from __future__ import annotations

import pytest

from w2s_chains import Hypothesis
from w2s_chains.core.hypothesis import FinishReason
from w2s_chains.scorers.adjustments import tokens


@pytest.mark.parametrize(("reason", "count"), [("eos", 4), ("stop", 3), ("length", 3), (None, 3)])
def test_the_end_token_of_an_ended_answer_counts(reason: FinishReason | None, count: int) -> None:
    answer = Hypothesis.root("x").extend("abc", n_tokens=3, finish_reason=reason)
    assert tokens(answer) == count


def test_an_empty_answer_counts_as_one() -> None:
    root = Hypothesis.root("x")
    assert tokens(root) == 1
    assert tokens(root.extend("", n_tokens=0, finish_reason="eos")) == 1
