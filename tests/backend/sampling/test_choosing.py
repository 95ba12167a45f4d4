"""The arithmetic of choosing a token, on tables of logits made by hand."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from w2s_chains import SamplingParams
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm import logits as arithmetic
from w2s_chains.backend.lm.logits import gumbel_argmax, log_exponential
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.shaping import Shaper

CPU = torch.device("cpu")


class _Path:
    """A parent of which only the tokens matter."""

    def __init__(self, *ids: int) -> None:
        self.ids = list(ids)

    def path_ids(self) -> list[int]:
        return self.ids


def shaped(logits: torch.Tensor, paths: list[list[int]], **sampling: Any) -> torch.Tensor:
    """What is sampled from, one row a path."""
    params = SamplingParams(max_tokens=8, **sampling)
    draws = [
        Draw(
            parents=(cast("Segment", _Path(*ids)),),
            steps=1,
            sampling=params,
            place=(0,),
            n_tokens=0,
        )
        for ids in paths
    ]
    return Shaper(draws, CPU).shaped(logits, [], None)


def test_the_penalty_lowers_negative_and_positive_logits_of_what_was_said() -> None:
    logits = torch.tensor([[2.0, -2.0, 1.0, -1.0], [2.0, -2.0, 1.0, -1.0]])
    found = shaped(logits, [[0, 1], [3, 3]], repetition_penalty=2.0)
    assert found.tolist() == [[1.0, -4.0, 1.0, -1.0], [2.0, -2.0, 1.0, -2.0]]
    small = shaped(torch.tensor([[0.5, -0.5, 0.0, 3.0]]), [[0, 1, 2]], repetition_penalty=2.0)
    assert small.tolist() == [[0.25, -1.0, 0.0, 3.0]]
    said: Any = torch.tensor([[0, 1], [3, 3]])
    theirs = RepetitionPenaltyLogitsProcessor(2.0)(said, logits.clone())
    assert found.tolist() == theirs.tolist()


@pytest.mark.parametrize("top_p", [0.25, 0.5, 0.625, 0.75, 0.875])
def test_the_nucleus_ends_where_its_probability_is_reached(top_p: float) -> None:
    """The smallest set that has at least top_p; its edge falls on the sums of this table."""
    probabilities = torch.tensor([[0.125, 0.5, 0.25, 0.125]])
    kept = shaped(probabilities.log(), [[0]], top_p=top_p).isfinite()
    ranked = sorted(probabilities[0].tolist(), reverse=True)
    smallest = next(n for n in range(1, 5) if sum(ranked[:n]) >= top_p)
    assert kept[0].tolist() == [smallest >= 3, True, smallest >= 2, smallest == 4]


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_top_k_then_top_p_like_transformers(top_k: int) -> None:
    torch.manual_seed(top_k)
    logits = torch.randn(5, 12)
    theirs = LogitsProcessorList([TopKLogitsWarper(top_k), TopPLogitsWarper(0.7)])(
        cast(Any, torch.zeros(5, 1)), logits.clone()
    )
    ours = shaped(logits, [[0]] * 5, top_k=top_k, top_p=0.7)
    assert ours.isfinite().tolist() == theirs.isfinite().tolist()


def test_equal_tokens_are_kept_from_the_lowest_id_on() -> None:
    kept = shaped(torch.zeros(2, 5000), [[0]] * 2, top_k=3).isfinite()
    assert [row.nonzero().flatten().tolist() for row in kept] == [[0, 1, 2]] * 2


def test_a_row_without_a_nucleus_keeps_its_tail_beside_one_that_has_one() -> None:
    """Rounded sums of many probabilities exceed 1 before the last token."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(1, 50_000)).expand(2, -1)
    ranked = logits[:1].sort(descending=True).values.softmax(1)
    assert (ranked.cumsum(1) - ranked >= 1).sum() > 1000, "control: the sums are rounded up"
    params = [SamplingParams(top_p=p) for p in (1.0, 0.5)]
    draws = [
        Draw(parents=(cast("Segment", _Path(0)),), steps=1, sampling=p, place=(0,), n_tokens=0)
        for p in params
    ]
    whole, nucleus = Shaper(draws, CPU).shaped(logits, [], None).isfinite().sum(1).tolist()
    assert whole == 50_000
    assert nucleus < 25_000


@pytest.mark.parametrize("min_p", [0.01, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("others", [{}, {"top_k": 4, "top_p": 0.9}])
def test_min_p_like_transformers(min_p: float, others: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 12)
    warpers = [TopKLogitsWarper(4), TopPLogitsWarper(0.9)] if others else []
    theirs = LogitsProcessorList([*warpers, MinPLogitsWarper(min_p)])(
        cast(Any, torch.zeros(5, 1)), logits.clone()
    )
    ours = shaped(logits, [[0]] * 5, min_p=min_p, **others)
    assert ours.isfinite().tolist() == theirs.isfinite().tolist()
    assert torch.equal(ours[ours.isfinite()], logits[ours.isfinite()])
    assert ours.isfinite().sum(1).min() >= 1


def test_min_p_keeps_the_edge_and_comes_after_the_temperature() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert shaped(logits, [[0]], min_p=0.5).isfinite().tolist() == [[True, True, False, False]]
    cold = shaped(logits, [[0]], min_p=0.5, temperature=0.5)
    assert cold.isfinite().tolist() == [[True, False, False, False]]
    assert shaped(logits, [[0]], min_p=0.0).isfinite().all()


@pytest.mark.parametrize("multiplier", [0, 2, 2**16, -(2**31)])
def test_an_even_multiplier_leaves_the_noise_as_good_as_an_odd_one(multiplier: int) -> None:
    """Only odd numbers multiply without loss; with an even one, tokens would share their noise."""
    keys = torch.tensor([[5, multiplier], [5, multiplier + 1]], dtype=torch.int32)
    even, odd = log_exponential(keys, 5000)
    assert even.tolist() == odd.tolist()
    assert len(set(even.tolist())) > 4990


def siblings(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, (count, 2), generator=generator).to(torch.int32)


def by_all_noise(logits: torch.Tensor, keys: torch.Tensor) -> list[int]:
    return (logits - log_exponential(keys, len(logits))).argmax(1).tolist()


@given(
    size=st.integers(1, 400),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0, 1e4]),
    excluded=st.sampled_from([0.0, 0.5, 0.99]),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**32),
)
def test_siblings_get_what_all_noise_gives_them(
    size: int, scale: float, excluded: float, count: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator) * scale
    logits[torch.rand(size, generator=generator) < excluded] = float("-inf")
    logits[seed % size] = 0.0  # one is left
    keys = siblings(count, seed)
    assert gumbel_argmax(logits, keys).tolist() == by_all_noise(logits, keys)


def test_unlikely_tokens_win_as_often_as_by_all_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(50_000)
    logits[7] = 10.0
    keys = siblings(600, 0)
    expected = by_all_noise(logits, keys)
    assert 100 < sum(token != 7 for token in expected) < 500
    assert gumbel_argmax(logits, keys).tolist() == expected
    monkeypatch.setattr(arithmetic, "_MOST_NOISE", 5.0)
    assert gumbel_argmax(logits, keys).tolist() != expected, "control: they need their noise"


def test_damaged_logits_are_no_error_here() -> None:
    """Their log-probabilities are NaN, which fails the search once the chunk is read."""
    for bad in ("nan", "inf"):
        logits = torch.tensor([0.0, float(bad), 1.0])
        assert gumbel_argmax(logits, siblings(4, 0)).shape == (4,)
