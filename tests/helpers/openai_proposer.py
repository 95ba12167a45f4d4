"""An OpenAI proposer on a test server, and ways to ask it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.helpers.served import Server, Words
from w2s_chains import Expand, Hypothesis, SamplingParams
from w2s_chains.proposers import OpenAIProposer

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)
HOT = SamplingParams(max_tokens=12)


class Longest:
    """A scorer that needs no guides."""

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [float(len(h.response)) for h in hypotheses]


def connect(server: Server, **options: Any) -> OpenAIProposer:
    options = {"backoff": 0.01, "timeout": 5.0, **options}
    return OpenAIProposer("m", base_url=server.url, **options)


def ask(proposer: Any, *hypotheses: Hypothesis | str, **fields: Any) -> list[Hypothesis]:
    nodes = tuple(Hypothesis.root(h) if isinstance(h, str) else h for h in hypotheses)
    [answer] = proposer.propose([Expand(hypotheses=nodes, **{"sampling": HOT, **fields})])
    if isinstance(answer, Exception):
        raise answer
    return answer


def distinct(proposer: Any, *hypotheses: Hypothesis | str, **fields: Any) -> list[Hypothesis]:
    """Children that begin with different tokens."""
    options = {"successors": 6, "chunk_tokens": 1, "distinct": True}
    return ask(proposer, *hypotheses, **{**options, **fields})


def greedy_in_chunks(proposer: OpenAIProposer, prompt: str, chunk: int, tokens: int) -> Hypothesis:
    h = Hypothesis.root(prompt)
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0)
    while not h.finished:
        [h] = ask(proposer, h, chunk_tokens=chunk, sampling=sampling)
    return h


def words(prompt: str, tokens: int = 12) -> str:
    body = {"max_tokens": tokens, "temperature": 0.0, "seed": 0}
    return Words().go_on(prompt, body, 0).text
