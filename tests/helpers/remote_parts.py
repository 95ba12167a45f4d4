"""Models with one part behind a faulty server: its proposer, its guide, or its judge."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tests.helpers.faulty import KEY, FaultyServer
from w2s_chains import W2SLLM, BestOfN, Engine, Hypothesis, RemoteGuide, Sampling
from w2s_chains.core.asks import Expand
from w2s_chains.proposers import OpenAIProposer
from w2s_chains.scorers import LLMJudgeConfig

TIMEOUT = 0.5
OPTIONS: dict[str, Any] = {"timeout": TIMEOUT, "max_retries": 1, "backoff": 0.01}


class Here:
    """A proposer in this process."""

    slice_tokens = 4

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        return [
            [
                h.extend(
                    " word",
                    n_tokens=1,
                    finish_reason="length" if h.n_tokens + 1 >= r.sampling.max_tokens else None,
                )
                for h in r.hypotheses
                for _ in range(r.successors)
            ]
            for r in requests
        ]


class Guided:
    """Scores by one guide."""

    def __init__(self, guide: RemoteGuide) -> None:
        self.guide = guide

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return self.guide.loglikelihood(hypotheses)


def with_proposer(server: FaultyServer, engine: Engine) -> W2SLLM:
    proposer = OpenAIProposer("m", base_url=server.url, api_key=KEY, **OPTIONS)
    return W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=8, engine=engine)


def with_guide(server: FaultyServer, engine: Engine) -> W2SLLM:
    guide = RemoteGuide("m", base_url=server.url, api_key=KEY, **OPTIONS)
    return W2SLLM(
        proposer=Here(), scorer=Guided(guide), strategy=BestOfN(n=2), max_tokens=4, engine=engine
    )


def with_judge(server: FaultyServer, engine: Engine) -> W2SLLM:
    os.environ |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
    judge = LLMJudgeConfig(model="openai:judge", timeout=OPTIONS["timeout"]).build(None)
    return W2SLLM(proposer=Here(), scorer=judge, strategy=BestOfN(n=2), max_tokens=4, engine=engine)


PARTS: dict[str, Callable[[FaultyServer, Engine], W2SLLM]] = {
    "proposer": with_proposer, "guide": with_guide, "judge": with_judge,
}  # fmt: skip
