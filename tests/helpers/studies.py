"""Prompts and rows of comparisons."""

from __future__ import annotations

from typing import Any

from w2s_chains.comparison import Row

PROMPTS = ("the film was", "I went to see", "a plot about", "they say that", "in the end")


def rows(config: str, golds: dict[tuple[int, int], float | None], **fields: Any) -> list[Row]:
    """One row per (prompt, seed), as older versions wrote them: without rows read."""
    return [
        Row(
            config=config,
            seed=seed,
            index=index,
            prompt=f"p{index}",
            text="words words",
            guide_score=1.0,
            loglikelihood=-2.0,
            rewards={"gold": gold, "repetition": 0.5},
            proposed_tokens=10,
            guide_tokens=20,
            **fields,
        )
        for (index, seed), gold in golds.items()
    ]
