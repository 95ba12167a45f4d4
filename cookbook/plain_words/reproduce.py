"""Steer towards plain words with guides that need no training, judged by a plain function.

    python -m cookbook.plain_words.reproduce

One small model under two system prompts is a guide pair: one answers a child, the other answers
anybody. The judge is a formula of word and sentence length that no model has seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from w2s_chains.comparison import compare, load_study

HERE = Path(__file__).parent


def plainness(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """Return minus the school grade a reader needs: the automated readability index (Senter, 1967).

    Raises:
        ValueError: An answer has no words.
    """
    return [-_grade(answer) for answer in answers]


def _grade(text: str) -> float:
    words = re.findall(r"\w+", text)
    if not words:
        raise ValueError("an answer without words has no readability")
    sentences = len(re.findall(r"[.!?]+(?:\s|$)", text)) or 1
    letters = sum(map(len, words))
    return 4.71 * letters / len(words) + 0.5 * len(words) / sentences - 21.43


def main() -> None:
    """Run the comparison; rows, table and plots go into ``results/``."""
    study = load_study(HERE / "study.yaml", rewards=[plainness, "length"])
    found = compare(study, out=HERE / "results", progress=True)
    found.print()


if __name__ == "__main__":
    main()
