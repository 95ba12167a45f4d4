"""Every fault of a server against every part: an answer or one clear error, in bounded time.

``W2S_FAULT_CALLS=1000`` makes a thousand calls of each instead of a few.
"""

from __future__ import annotations

import logging
import os
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.helpers.faulty import FAULTS, KEY, FaultyServer, serving
from w2s_chains import W2SLLM, BestOfN, Engine, Hypothesis, RemoteGuide, Sampling
from w2s_chains.core.asks import Expand
from w2s_chains.errors import W2SError
from w2s_chains.proposers import OpenAIProposer
from w2s_chains.scorers import LLMJudgeConfig

CALLS = int(os.environ.get("W2S_FAULT_CALLS", "3"))
TIMEOUT = 0.5
AT_ONCE = 8
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
    judge = LLMJudgeConfig(model="openai:judge", timeout=TIMEOUT).build(None)
    return W2SLLM(proposer=Here(), scorer=judge, strategy=BestOfN(n=2), max_tokens=4, engine=engine)


PARTS: dict[str, Callable[[FaultyServer, Engine], W2SLLM]] = {
    "proposer": with_proposer, "guide": with_guide, "judge": with_judge,
}  # fmt: skip


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
            patch.setenv(name, "")
        yield


HARMLESS = {
    # What these parts do not read, or may take.
    "proposer": {"positive logprobs", "logprobs are NaN", "logprobs too few"},
    "guide": {"unknown ending", "choices too many", "no text", "usage of nothing"},
    "judge": {
        "unknown ending", "no ending", "negative usage", "huge usage", "usage of nothing",
        "positive logprobs", "logprobs are NaN", "logprobs too few", "ids out of range",
        "choices too many",
    },
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_or_one_clear_error(
    part: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = Engine()
    calm = W2SLLM(proposer=Here(), strategy=Sampling(), max_tokens=4, engine=engine)
    with serving(fault) as server, serving() as other:
        server.other = other.url
        llm = PARTS[part](server, engine)
        assert isinstance(llm.invoke("a"), str), "control: without the fault it works"
        server.on = True
        begun, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with ThreadPoolExecutor(AT_ONCE) as pool:
            calls = [pool.submit(llm.invoke, f"prompt {i}") for i in range(CALLS)]
            for _ in range(3):
                since = time.monotonic()
                assert calm.invoke("x") == " word" * 4
                assert time.monotonic() - since < 2 * TIMEOUT, "no other LLM is disturbed"
            errors = [call.exception(timeout=60 + CALLS) for call in calls]
        took = time.monotonic() - begun
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        assert not other.requests, "the prompt went to another server"
    failed = [error for error in errors if error is not None]
    assert all(isinstance(error, W2SError) for error in failed), failed
    if fault not in HARMLESS[part]:
        assert len(failed) == CALLS
    assert took < (CALLS / AT_ONCE + 1) * 12 * TIMEOUT + 3
    assert grown < 300_000, "kilobytes"
    for error in failed:
        assert len(str(error)) < 1200
        told = "".join(traceback.format_exception(error)) + repr(error)
        assert KEY not in told, told
    assert KEY not in caplog.text
