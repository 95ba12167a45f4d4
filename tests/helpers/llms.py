"""What tests of LangChain models share: prompts, strategies, counts and bad scorers."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler

from w2s_chains import (
    CARDS,
    DVTS,
    MCTS,
    W2SLLM,
    AdaptiveBestOfN,
    BestOfN,
    ChatW2S,
    ChunkBeamSearch,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Nudging,
    ParticleFilter,
    Sampling,
    SearchStrategy,
    SpeculativeRejection,
    TokenSearch,
)
from w2s_chains.backend.kv.segment import Segment

PROMPT = "The movie was great"
PROMPTS = [f"{'The film is ' * (i % 4)}number {i}" for i in range(16)]
BEAM = ChunkBeamSearch(width=2, successors=2, chunk_tokens=4)
STRATEGIES = [
    BEAM,
    ChunkBeamSearch(width=2, successors=3, chunk_tokens=3, return_best="finished"),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=3, steering=0.5),
    BestOfN(n=3),
    Sampling(),
    EmulatedFineTuning(beta=0.7),
    TokenSearch(candidates=4, tau=0.5),
    ParticleFilter(particles=4, chunk_tokens=3, tau=0.5, resample_below=0.9, pick="drawn"),
    CARDS(goal=4.0, goal_tokens=12, entropy=4.5, min_tokens=1, chunk_tokens=6, attempts=5, wave=2),
    MCTS(iterations=3, successors=2, chunk_tokens=4, exploration=0.5),
    DVTS(subtrees=2, successors=2, chunk_tokens=4),
    AdaptiveBestOfN(n=6, wave=2, min_gain=0.5),
    SpeculativeRejection(n=4, chunk_tokens=3),
    Nudging(threshold=0.2),
]
every_strategy = pytest.mark.parametrize(
    "strategy",
    STRATEGIES,
    ids=[
        "beam",
        "finished",
        "steered",
        "best-of-n",
        "sampling",
        "eft",
        "tokens",
        "particles",
        "cards",
        "mcts",
        "dvts",
        "adaptive",
        "rejection",
        "nudging",
    ],
)


def forwards(llm: W2SLLM | ChatW2S) -> int:
    """Passes of all three models so far."""
    assert isinstance(llm.proposer, HuggingFaceProposer)
    count = llm.proposer.lm.counters.forwards
    pair = getattr(llm.scorer, "pair", None) or llm.guides
    for guide in (pair.tuned, pair.untuned) if isinstance(pair, GuidePair) else ():
        assert isinstance(guide, HuggingFaceGuide)
        count += guide.lm.counters.forwards
    return count


def endless(llm: W2SLLM, strategy: SearchStrategy, max_tokens: int) -> W2SLLM:
    """With a seed with which the answer to PROMPT does not end before ``max_tokens``."""
    llm = llm.model_copy(update={"strategy": strategy, "max_tokens": max_tokens})
    for seed in range(100):
        info = llm.generate([PROMPT], seed=seed).generations[0][0].generation_info or {}
        if info["finish_reason"] == "length":
            return llm.model_copy(update={"seed": seed})
    raise AssertionError("all answers end early")


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "w2s-engine"]


def wait_for_engine(seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while engine_threads():
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.005)


def in_memory() -> dict[str, int]:
    gc.collect()
    kinds = [type(thing) for thing in gc.get_objects()]
    return {kind.__name__: kinds.count(kind) for kind in (Segment, Hypothesis)}


class Recorder(BaseCallbackHandler):
    """Counts what LangChain tells."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.starts = self.ends = self.errors = 0
        self.lock = threading.Lock()

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self.starts += 1

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self.ends += 1

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self.errors += 1


class BadScorer:
    """A scorer that fails for texts below a prompt that says so."""

    def __init__(self, how: Callable[[Sequence[Hypothesis]], Any]) -> None:
        self.how = how

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        if any("bad" in str(h.prompt.text) for h in hypotheses):
            return self.how(hypotheses)
        return [float(len(h.response)) for h in hypotheses]


def nan_if_bad(hypotheses: Sequence[Hypothesis]) -> list[float]:
    return [float("nan") if "bad" in str(h.prompt.text) else len(h.response) for h in hypotheses]


def both_guides(pair: GuidePair) -> list[HuggingFaceGuide]:
    assert isinstance(pair.tuned, HuggingFaceGuide)
    assert isinstance(pair.untuned, HuggingFaceGuide)
    return [pair.tuned, pair.untuned]


def text(answer: Any) -> str:
    return answer if isinstance(answer, str) else answer.content
