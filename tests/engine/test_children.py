"""What a proposer may return, and what parts may raise."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from typing import Any

import pytest

from w2s_chains import (
    W2SLLM,
    BestOfN,
    CallableScorer,
    ChunkBeamSearch,
    Hypothesis,
    ProposerError,
    Sampling,
    SamplingParams,
    SearchStrategy,
    W2SError,
)
from w2s_chains.core.asks import Expand, Until
from w2s_chains.engine.children import LONGEST, check_children

BEAM = ChunkBeamSearch(width=2, successors=2, chunk_tokens=2)
LENGTH = CallableScorer(lambda prompts, responses: [float(len(r)) for r in responses])


class Answers:
    """A proposer whose children are made by a function of parent, chunk and max_tokens."""

    def __init__(self, child: Any) -> None:
        self.child = child

    def propose(self, requests):
        return [
            [
                self.child(h, request.chunk_tokens or 4, request.sampling.max_tokens)
                for h in request.hypotheses
                for _ in range(request.successors)
            ]
            for request in requests
        ]


def good(parent: Hypothesis, chunk: int, max_tokens: int) -> Hypothesis:
    count = min(chunk, max_tokens - parent.n_tokens)
    full = parent.n_tokens + count == max_tokens
    return parent.extend("a" * count, n_tokens=count, finish_reason="length" if full else None)


def finished_without_tokens(parent: Hypothesis, chunk: int, max_tokens: int) -> Hypothesis:
    return (
        good(parent, chunk, max_tokens)
        if parent.parent is None
        else parent.extend("", finish_reason="eos")
    )


def in_two_steps(parent: Hypothesis, chunk: int, max_tokens: int) -> Hypothesis:
    between = parent.extend("b", n_tokens=1)
    return good(between, chunk - 1, max_tokens)


def without_counts(parent: Hypothesis, chunk: int, max_tokens: int) -> Hypothesis:
    return parent.extend("ab", finish_reason="eos" if len(parent.response) > 5 else None)


@pytest.mark.parametrize("strategy", [BEAM, BestOfN(n=2), Sampling()])
@pytest.mark.parametrize("child", [good, finished_without_tokens, in_two_steps, without_counts])
def test_what_is_right_is_taken(child: Any, strategy: SearchStrategy) -> None:
    llm = W2SLLM(proposer=Answers(child), scorer=LENGTH, strategy=strategy, max_tokens=6)
    assert llm.invoke("x")


WRONG = {
    "no new token and is not finished": lambda h, *_: h.extend("text without a count" * 9),
    "no new token": lambda h, *_: h.extend("", n_tokens=0),
    "does not continue": lambda h, *_: h,
    "does not continue Hypothesis": lambda h, *_: Hypothesis.root("x").extend("a", n_tokens=1),
    "is not finished with 6 tokens where max_tokens is 6": lambda h, chunk, most: h.extend(
        "a", n_tokens=most - h.n_tokens
    ),
    "is 'a string'; return hypotheses": lambda *_: "a string",
    "is None; return hypotheses": lambda *_: None,
}


@pytest.mark.parametrize("strategy", [BEAM, Sampling()])
@pytest.mark.parametrize("message", WRONG)
def test_what_would_lead_astray_is_refused(message: str, strategy: SearchStrategy) -> None:
    proposer = Answers(WRONG[message])
    llm = W2SLLM(proposer=proposer, scorer=LENGTH, strategy=strategy, max_tokens=6)
    with pytest.raises(ProposerError, match=f"the proposer Answers returned .*{message}"):
        llm.invoke("x")


@pytest.mark.parametrize("most", [1, 4])
def test_a_text_without_counts_is_bounded_by_its_length(most: int) -> None:
    root = Hypothesis.root("x")
    request = Expand(hypotheses=(root,), sampling=SamplingParams(max_tokens=most))
    check_children(request, [root.extend("a" * (LONGEST * most))], "P")
    with pytest.raises(ProposerError, match="has no new token and is not finished"):
        check_children(request, [root.extend("a" * (LONGEST * most + 1))], "P")


def test_children_stand_in_the_order_of_their_parents() -> None:
    letters = itertools.cycle("abcdefgh")

    def lettered(parent: Hypothesis, chunk: int, max_tokens: int) -> Hypothesis:
        child = good(parent, chunk, max_tokens)
        return dataclasses.replace(child, text=next(letters) * len(child.text))

    class Swapped(Answers):
        def propose(self, requests):
            return [children[::-1] for children in super().propose(requests)]

    options: dict[str, Any] = {"scorer": LENGTH, "strategy": BEAM, "max_tokens": 6}
    assert len(W2SLLM(proposer=Answers(lettered), **options).invoke("x")) == 6, "control"
    with pytest.raises(ProposerError, match="does not continue"):
        W2SLLM(proposer=Swapped(lettered), **options).invoke("x")


def test_a_stop_string_may_take_an_earlier_chunk_back() -> None:
    def stopped(parent: Hypothesis, chunk: int, max_tokens: int) -> Hypothesis:
        if parent.parent is None:
            return parent.extend("ab", n_tokens=2)
        return parent.parent.extend("a", n_tokens=4, finish_reason="stop")

    llm = W2SLLM(proposer=Answers(stopped), scorer=LENGTH, strategy=BEAM, max_tokens=6)
    assert llm.invoke("x", stop=["bc"]) == "a"


class Raises:
    """A proposer and a scorer that raises in one of its methods."""

    partial = True

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error

    def _reach(self, here: str) -> None:
        if self.where == here:
            raise self.error

    def check(self, prompt, sampling):
        self._reach("check")

    def propose(self, requests):
        self._reach("propose")
        return Answers(good).propose(requests)

    def score(self, hypotheses):
        self._reach("score")
        return [0.0] * len(hypotheses)


ENDS = [StopIteration("x"), StopAsyncIteration("x"), SystemExit(3), asyncio.CancelledError()]


def asked(llm: W2SLLM, how: str) -> object:
    async def streamed() -> list[str]:
        return [chunk async for chunk in llm.astream("x")]

    ways = {
        "invoke": lambda: llm.invoke("x"),
        "batch": lambda: llm.batch(["x", "y"]),
        "stream": lambda: list(llm.stream("x")),
        "ainvoke": lambda: asyncio.run(llm.ainvoke("x")),
        "astream": lambda: asyncio.run(streamed()),
    }
    return ways[how]()


@pytest.mark.parametrize("how", ["invoke", "batch", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("where", ["propose", "score"])
@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_an_error_that_ends_loops_ends_the_search_alone(
    error: BaseException, where: str, how: str
) -> None:
    part = Raises(where, error)
    llm = W2SLLM(proposer=part, scorer=part, strategy=BEAM, max_tokens=6)
    with pytest.raises(W2SError, match="a part of the search raised"):
        asked(llm, how)
    whole = Raises("nowhere", error)
    assert asked(W2SLLM(proposer=whole, scorer=whole, strategy=BEAM, max_tokens=6), how), "control"


@pytest.mark.parametrize("how", ["invoke", "batch", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("error", ENDS[:2], ids=lambda error: type(error).__name__)
def test_the_same_in_a_check(error: BaseException, how: str) -> None:
    part = Raises("check", error)
    llm = W2SLLM(proposer=part, scorer=part, strategy=BEAM, max_tokens=6)
    with pytest.raises(W2SError, match="a part of the search raised"):
        asked(llm, how)


def test_a_strategy_that_raises_ends_its_search_alone() -> None:
    class Leaves(Sampling):
        def search(self, root):
            raise SystemExit(4)
            yield

    llm = W2SLLM(proposer=Answers(good), strategy=Leaves(), max_tokens=6)
    with pytest.raises(W2SError, match=r"SystemExit\(4\)"):
        llm.invoke("x")
    assert llm.invoke("x", strategy="sampling") == "aaaaaa"


@pytest.mark.parametrize("until", [None, Until(entropy=1.0), Until(entropy=1.0, least=0)])
def test_the_hypothesis_itself_is_a_child_where_chunks_may_be_empty(until: Until | None) -> None:
    root = Hypothesis.root("p")
    ask = Expand(hypotheses=(root,), chunk_tokens=4, until=until)
    if until is not None and until.least == 0:
        check_children(ask, [root], "Own")
        with pytest.raises(ProposerError, match="does not continue"):
            check_children(ask, [Hypothesis.root("p")], "Own")
    else:
        with pytest.raises(ProposerError, match="does not continue"):
            check_children(ask, [root], "Own")
