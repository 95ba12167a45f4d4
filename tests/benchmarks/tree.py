"""What the search tree itself costs: chunks of one token, with models that cost nothing.

    python -m tests.benchmarks.tree

CPU seconds of the whole process for searches of 1,000 to 20,000 chunks, and the exponent of their
growth between the first and the last size. A benchmark reports, and asserts nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from w2s_chains import W2SLLM, ChunkBeamSearch, Engine, Hypothesis, Proposer, Scorer
from w2s_chains.core.asks import Expand

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
STRATEGIES = {
    "1,1,1": ChunkBeamSearch(width=1, successors=1, chunk_tokens=1),
    "1,8,1": ChunkBeamSearch(width=1, successors=8, chunk_tokens=1),
    "2,4,1": ChunkBeamSearch(width=2, successors=4, chunk_tokens=1),
}


class Letters(Proposer):
    """Proposes one letter after another."""

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        return [
            [
                h.extend(
                    chr(97 + (h.n_tokens * 7 + i) % 26),
                    (i,),
                    finish_reason=(
                        "length" if h.n_tokens + 1 == request.sampling.max_tokens else None
                    ),
                )
                for h in request.hypotheses
                for i in range(request.successors)
            ]
            for request in requests
        ]


class LastLetter(Scorer):
    """Scores a text by its last letter."""

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [float(ord(h.text[-1])) if h.text else 0.0 for h in hypotheses]


def seconds(strategy: ChunkBeamSearch, chunks: int) -> float:
    """CPU seconds of one answer."""
    llm = W2SLLM(
        proposer=Letters(), scorer=LastLetter(), strategy=strategy, max_tokens=chunks,
        engine=Engine(), seed=0,
    )  # fmt: skip
    begin = time.process_time()
    llm.invoke("a")
    return time.process_time() - begin


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The exponent of a power law through the first and the last point."""
    return math.log(costs[-1] / costs[0]) / math.log(sizes[-1] / sizes[0])


def main() -> None:
    print(f"{'W,K,L':8}" + "".join(f"{size:>9,}" for size in SIZES) + "  exponent")
    for name, strategy in STRATEGIES.items():
        seconds(strategy, 100)
        costs = [min(seconds(strategy, size) for _ in range(3)) for size in SIZES]
        row = "".join(f"{cost:9.2f}" for cost in costs)
        print(f"{name:8}{row}  {exponent(SIZES, costs):.2f}")


if __name__ == "__main__":
    main()
