"""Judges answers with the rewards; a text on which one fails harms no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from w2s_chains.comparison.answers import told
from w2s_chains.comparison.rows import Judgement, Row
from w2s_chains.rewards import Reward


def unjudged(reward: Reward, rows: Sequence[Row]) -> list[Row]:
    """The answers that this reward has not judged yet, or failed on."""
    return [row for row in rows if row.text is not None and row.rewards.get(reward.column) is None]


def judge(reward: Reward, rows: Sequence[Row]) -> list[Judgement]:
    """One judgement per row, in order; one that failed holds the error."""
    return [
        Judgement(
            config=row.config,
            seed=row.seed,
            index=row.index,
            reward=reward.column,
            value=None if isinstance(outcome, str) else outcome,
            error=outcome if isinstance(outcome, str) else None,
        )
        for row, outcome in zip(rows, _outcomes(reward.score, rows), strict=True)
    ]


def _outcomes(
    score: Callable[[Sequence[str], Sequence[str]], list[float]], rows: Sequence[Row]
) -> list[float | str]:
    try:
        values = [float(v) for v in score([r.prompt for r in rows], [r.text or "" for r in rows])]
        if len(values) != len(rows):
            raise ValueError(f"it returned {len(values)} values for {len(rows)} answers")
    except Exception as error:
        if len(rows) == 1:
            return [told(error)]
        return [outcome for row in rows for outcome in _outcomes(score, [row])]
    return [
        value if math.isfinite(value) else f"ValueError: the reward is {value}" for value in values
    ]
