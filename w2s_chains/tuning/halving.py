"""Who goes on: Pareto fronts of value against cost, and the choice among the last candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from w2s_chains.comparison.report.paired import Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a candidate after some prompts.

    Attributes:
        name: The candidate.
        prompts: Prompts that it has answered.
        value: Mean of what is maximised; NaN if nothing could be judged.
        cost: Rows that the large model reads for an answer, or seconds if the proposer counts no
            rows; see ``Tuning.cost``.
        seconds: Wall time of an answer.
        brakes: Why it may not be recommended: too much repetition, or too unlikely a text.
    """

    name: str
    prompts: int
    value: float
    cost: float
    seconds: float
    brakes: tuple[str, ...] = ()


def front(standings: Sequence[Standing]) -> list[Standing]:
    """Return those that no other beats in value at no more cost, or in cost at no less value.

    Those with brakes are on no front. The cheapest comes first.
    """
    able = [s for s in standings if not s.brakes and not math.isnan(s.value)]
    ordered = sorted(able, key=lambda s: (s.cost, -s.value))
    found: list[Standing] = []
    for standing in ordered:
        if not found or standing.value > found[-1].value:
            found.append(standing)
    return found


def survivors(standings: Sequence[Standing], keep: int) -> list[str]:
    """Return the names of those that go on, the best front first, then the next one.

    Within a front, those of higher value come first; those with brakes come last of all.
    """
    left, ranked = list(standings), list[Standing]()
    while layer := front(left):
        ranked += sorted(layer, key=lambda s: -s.value)
        left = [s for s in left if s not in layer]
    ranked += sorted(left, key=lambda s: -math.inf if math.isnan(s.value) else s.value)[::-1]
    return [standing.name for standing in ranked[:keep]]


ABOUT_EQUAL = 1.1
"""Costs within this factor count as equal: an answer that ends early reads fewer rows."""


def recommended(
    standings: Sequence[Standing],
    over_baseline: Mapping[str, Difference],
    to_best: Mapping[str, Difference],
) -> str | None:
    """Choose the cheapest candidate that is not clearly worse than the best one.

    Args:
        standings: The last candidates, on prompts that have chosen nothing.
        over_baseline: The paired difference of each to plain sampling.
        to_best: The paired difference of each to the best one of ``contenders``.

    Returns:
        Its name; None if none is better than plain sampling by an interval that excludes 0.
    """
    able = [
        standing
        for standing in contenders(standings, over_baseline)
        if standing.name not in to_best or to_best[standing.name].high >= 0
    ]
    if not able:
        return None
    limit = ABOUT_EQUAL * min(standing.cost for standing in able)
    return max((s for s in able if s.cost <= limit), key=lambda s: s.value).name


def contenders(
    standings: Sequence[Standing], over_baseline: Mapping[str, Difference]
) -> list[Standing]:
    """Return those without brakes that clearly beat plain sampling, the best one first."""
    able = [
        standing
        for standing in standings
        if not standing.brakes
        and standing.name in over_baseline
        and over_baseline[standing.name].low > 0
    ]
    return sorted(able, key=lambda s: -s.value)
