"""The distributions that tokens are sampled from, by hand; and what a draw costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from w2s_chains import SamplingParams
from w2s_chains.backend.sampling.draws import Draw
from w2s_chains.backend.sampling.shaping import Shaper
from w2s_chains.core.sampling import LARGEST, SMALLEST


def draw(path: list[int] | None = None, **sampling: Any) -> Draw:
    ids = path or [1]
    parent: Any = SimpleNamespace(path_ids=lambda: ids, end=len(ids))
    return Draw(
        parents=(parent,), steps=3, sampling=SamplingParams(**sampling), place=(), n_tokens=0
    )


def shaped(draws: list[Draw], logits: list[list[float]]) -> torch.Tensor:
    return Shaper(draws, torch.device("cpu")).shaped(torch.tensor(logits), [], None)


def test_greedy_logits_stay_beside_those_of_others() -> None:
    found = shaped([draw(temperature=0.0), draw(temperature=0.5)], [[1.0, 3.0], [1.0, 3.0]])
    assert found.tolist() == [[1.0, 3.0], [2.0, 6.0]]


def test_top_p_alone_has_no_limit_of_tokens() -> None:
    kept = shaped([draw(top_p=0.995), draw(top_p=0.5)], [[0.0] * 100] * 2).isfinite().sum(1)
    assert kept.tolist() == [100, 50]


def test_paths_of_several_lengths_are_penalised_alike() -> None:
    paths = [[0], [0, 1], [0, 1, 2, 3]]
    logits = [1.0, -1.0, 2.0, 4.0, 5.0]
    found = shaped([draw(path, repetition_penalty=2.0) for path in paths], [logits] * 3)
    wanted = [[0.5, -1, 2, 4, 5], [0.5, -2, 2, 4, 5], [0.5, -2, 1, 2, 5]]
    assert found.tolist() == wanted
    assert shaped([draw(paths[0])], [logits]).tolist() == [logits], "control"


def test_a_draw_costs_its_path_and_its_steps() -> None:
    assert draw([4, 5, 6, 7]).cost == 4 + 3
    assert draw().cost == 1 + 3


@pytest.mark.parametrize("extreme", [SMALLEST, LARGEST])
def test_the_extremes_of_a_number_keep_a_token(extreme: float) -> None:
    drawn = draw(temperature=extreme, repetition_penalty=extreme, top_p=min(extreme, 1.0))
    found = shaped([drawn], [[40.0, -40.0, 3.0]])
    assert found.isfinite().any()
    assert not found.isnan().any()
