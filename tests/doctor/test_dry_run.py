"""What a dry run says a strategy costs is what a real search with that length costs."""

from __future__ import annotations

from typing import Any

import pytest

from w2s_chains import W2SLLM, LogRatioScorer
from w2s_chains.doctor.dry_run import dry_run
from w2s_chains.errors import W2SError
from w2s_chains.search import STRATEGIES, STRATEGY, BestOfN, ChunkBeamSearch, SearchStrategy

EXACT = [
    {"type": "sampling"},
    {"type": "best_of_n", "n": 3},
    {"type": "chunk_beam", "width": 2, "successors": 3, "chunk_tokens": 4},
    {"type": "token_search", "candidates": 4},
    {"type": "dvts", "subtrees": 2, "successors": 2, "chunk_tokens": 4},
]


@pytest.mark.parametrize("values", EXACT, ids=lambda values: values["type"])
def test_rows_and_rounds_are_those_of_a_search(
    values: dict[str, Any], proposer: Any, scorer: LogRatioScorer
) -> None:
    strategy: SearchStrategy = STRATEGY.build(values)
    effort, _ = dry_run(strategy, 12, 1)
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=strategy, max_tokens=12, seed=1)
    for seed in range(20):  # one that no end token cuts short
        [[answer]] = llm.generate(["The film"], seed=seed).generations
        info = answer.generation_info or {}
        if info["proposed_tokens"] == effort.branches * 12:
            break
    else:
        pytest.fail("each answer ended early")
    assert effort.rows_per_token == pytest.approx(info["read_tokens"] / 12)
    assert effort.rounds == info["rounds"]
    other, _ = dry_run(BestOfN(n=effort.branches + 1), 12, 1)
    assert other.rows_per_token != pytest.approx(info["read_tokens"] / 12), "control"


@pytest.mark.parametrize("kind", STRATEGIES)
def test_every_strategy_can_be_tried(kind: str) -> None:
    effort, asks = dry_run(STRATEGY.build({"type": kind}), 64, 1)
    assert effort.tokens == 64
    assert effort.rounds >= 1
    assert asks


def test_when_text_comes() -> None:
    def first(**fields: Any) -> int:
        return dry_run(ChunkBeamSearch(**fields), 64, 1)[0].first_text

    assert first(width=1, successors=4, chunk_tokens=4) == 4
    assert 4 < first(width=2, successors=2, chunk_tokens=4) < 64
    assert dry_run(BestOfN(n=4), 64, 1)[0].first_text == 64


def test_much_is_not_tried() -> None:
    with pytest.raises(W2SError, match="50,000"):
        dry_run(BestOfN(n=60_000), 8, 1)
