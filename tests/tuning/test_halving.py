"""Who goes on and who is recommended, from numbers made by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2s_chains.comparison import Difference
from w2s_chains.tuning.halving import Standing, front, recommended, survivors


def standing(name: str, value: float, cost: float, *brakes: str) -> Standing:
    return Standing(name=name, prompts=8, value=value, cost=cost, seconds=1.0, brakes=brakes)


def gain(mean: float, half: float = 0.5) -> Difference:
    return Difference(mean=mean, low=mean - half, high=mean + half, win_rate=0.5, prompts=8)


STANDINGS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 6).map(float), st.just(math.nan)),
        st.integers(1, 6).map(float),
        st.booleans(),
    ),
    max_size=12,
).map(
    lambda rows: [
        standing(str(i), value, cost, *(["slow"] if brake else []))
        for i, (value, cost, brake) in enumerate(rows)
    ]
)


@given(STANDINGS)
def test_the_front_is_what_no_other_beats(standings: list[Standing]) -> None:
    able = [s for s in standings if not s.brakes and not math.isnan(s.value)]
    unbeaten = {
        (s.value, s.cost)
        for s in able
        if not any(
            other.value >= s.value
            and other.cost <= s.cost
            and (other.value, other.cost) != (s.value, s.cost)
            for other in able
        )
    }
    found = [(s.value, s.cost) for s in front(standings)]
    assert set(found) == unbeaten
    assert found == sorted(found, key=lambda pair: pair[1])


@given(STANDINGS, st.integers(0, 14))
def test_survivors_are_as_many_as_asked_and_the_front_comes_first(
    standings: list[Standing], keep: int
) -> None:
    names = survivors(standings, keep)
    assert len(names) == len(set(names)) == min(keep, len(standings))
    first = {s.name for s in front(standings)}
    assert first <= set(names) or set(names) <= first


def test_those_with_brakes_and_without_a_value_go_last() -> None:
    standings = [
        standing("braked", 9.0, 1.0, "repetition +0.20"),
        standing("broken", math.nan, 1.0),
        standing("poor", 1.0, 5.0),
        standing("good", 2.0, 5.0),
    ]
    assert survivors(standings, 4) == ["good", "poor", "braked", "broken"]


def test_the_cheapest_that_is_not_clearly_worse_is_recommended() -> None:
    cheap, better, best = (
        standing("cheap", 2.0, 50), standing("better", 2.4, 52), standing("best", 2.5, 600),
    )  # fmt: skip
    over = {"cheap": gain(2.0), "better": gain(2.4), "best": gain(2.5)}
    level = {"cheap": gain(-0.4), "better": gain(-0.1)}
    assert recommended([cheap, better, best], over, level) == "better", "50 and 52 rows are equal"
    worse = {"cheap": gain(-0.6), "better": gain(-0.6)}
    assert recommended([cheap, better, best], over, worse) == "best"
    assert recommended([cheap, best], over, {"cheap": gain(-0.4)}) == "cheap"


@pytest.mark.parametrize("brakes", [(), ("loglikelihood -0.40",)])
def test_nothing_is_recommended_without_a_clear_gain(brakes: tuple[str, ...]) -> None:
    one = standing("one", 2.0, 50, *brakes)
    assert recommended([one], {"one": gain(0.4)}, {}) is None
    assert recommended([one], {"one": gain(0.6)}, {}) == (None if brakes else "one")
