"""Scores by functions and Runnables: batched, remembered, and told clearly where they fail."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import Generation, LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda
from pydantic import Field

from tests.helpers.remote_parts import Here
from w2s_chains import (
    W2SLLM,
    BestOfN,
    CallableScorer,
    ChunkBeamSearch,
    Engine,
    HuggingFaceProposer,
    Hypothesis,
    RunnableScorer,
    Sampling,
)
from w2s_chains.core.prompts import Message, Prompt
from w2s_chains.errors import ConfigError, ScorerError, W2SError
from w2s_chains.scorers.functions import _only_waits


def nodes(*texts: str, prompt: str = "p") -> list[Hypothesis]:
    root = Hypothesis.root(prompt)
    return [root.extend(text) for text in texts]


def length(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    return [float(len(response)) for response in responses]


def test_a_function_of_prompts_and_responses() -> None:
    seen: list[Any] = []

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        seen.append((prompts, responses))
        return [len(p) * 10 + len(r) for p, r in zip(prompts, responses, strict=True)]

    scorer = CallableScorer(score)
    chat = Hypothesis.root(
        Prompt(messages=(Message(role="system", content="Be"), Message(role="user", content="hi")))
    )
    assert scorer.score([*nodes("a", "bb"), chat.extend("x")]) == [11.0, 12.0, 191.0]
    assert seen == [(["p", "p", "system: Be\nuser: hi"], ["a", "bb", "x"])], "one call"


def test_every_hypothesis_is_asked_for_once_and_then_forgotten() -> None:
    asked: list[str] = []

    def score(prompts: list[str], responses: list[str]) -> list[float]:
        asked.extend(responses)
        return length(prompts, responses)

    scorer = CallableScorer(score)
    a, b = nodes("a", "bb")
    assert scorer.score([a, b, a]) == [1.0, 2.0, 1.0]
    assert scorer.score([b, a]) == [2.0, 1.0]
    assert asked == ["a", "bb"]
    assert scorer.score(nodes("a")) == [1.0], "another hypothesis of the same text"
    assert asked == ["a", "bb", "a"], "control"
    assert scorer.score([]) == []
    del a, b
    gc.collect()
    assert len(scorer._known) == 0


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ([1.0], "the function <lambda> returned 1 scores for 2 responses"),
        (3.0, "returned 1 scores for 2"),
        (None, "returned 1 scores for 2"),
        ([1.0, "x"], "gave 'x' for the response 'bb'"),
        ([1.0, float("nan")], "gave nan for the response 'bb'"),
        ([float("inf"), 1.0], "gave inf for the response 'a'"),
        ([None, 1.0], "gave None"),
    ],
)
def test_what_a_function_gets_wrong(returned: Any, told: str) -> None:
    with pytest.raises(ScorerError, match=told):
        CallableScorer(lambda prompts, responses: returned).score(nodes("a", "bb"))


def test_what_is_no_function_and_no_runnable() -> None:
    with pytest.raises(ConfigError, match=r"needs a function .* not 'length'"):
        CallableScorer("length")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="needs a LangChain Runnable"):
        RunnableScorer(length)
    with pytest.raises(ConfigError, match="needs a LangChain Runnable"):
        RunnableScorer(RunnableLambda)
    with pytest.raises(ConfigError, match="max_concurrency is 0"):
        RunnableScorer(RunnableLambda(len), max_concurrency=0)


@pytest.mark.parametrize("given", [7, 7.0, "7", " 7.0\n", AIMessage("7"), True * 7])
def test_what_is_a_number(given: Any) -> None:
    assert RunnableScorer(RunnableLambda(lambda x: given)).score(nodes("a")) == [7.0]


@pytest.mark.parametrize(
    "given", ["Score: 7", "", None, {"score": 7}, [7, 8], AIMessage("seven"), float("nan"), "inf"]
)
def test_what_is_no_number(given: Any) -> None:
    scorer = RunnableScorer(RunnableLambda(lambda x: given, name="judge"))
    with pytest.raises(ScorerError, match=r"the Runnable judge gave .* must be a finite number"):
        scorer.score(nodes("a"))


def test_a_runnable_gets_prompt_and_response_side_by_side() -> None:
    seen: list[Any] = []
    inside, most = 0, 0
    lock, both = threading.Lock(), threading.Barrier(2, timeout=20)

    def judge(values: dict[str, str]) -> float:
        nonlocal inside, most
        with lock:
            seen.append(values)
            inside += 1
            most = max(most, inside)
        both.wait()
        with lock:
            inside -= 1
        return len(values["response"])

    texts = [str(i) * i for i in range(1, 7)]
    assert RunnableScorer(RunnableLambda(judge), max_concurrency=2).score(nodes(*texts)) == [
        1.0, 2.0, 3.0, 4.0, 5.0, 6.0
    ]  # fmt: skip
    assert most == 2
    assert {"prompt": "p", "response": "22"} in seen
    assert len(seen) == 6


def test_one_that_fails_harms_no_other() -> None:
    asked: list[str] = []

    def judge(values: dict[str, str]) -> float:
        asked.append(values["response"])
        if "bad" in values["response"]:
            raise TimeoutError("no answer")
        return 1.0

    scorer = RunnableScorer(RunnableLambda(judge), max_concurrency=1)
    good, bad, fine = nodes("good", "bad", "fine")
    with pytest.raises(TimeoutError, match="no answer"):
        scorer.score([good, bad, fine])
    assert scorer.score([good, fine]) == [1.0, 1.0]
    with pytest.raises(TimeoutError):
        scorer.score([bad])
    assert sorted(asked) == ["bad", "bad", "fine", "good"]


def test_an_error_does_not_keep_the_reply() -> None:
    """A reply may be megabytes long, and a caller may keep thousands of errors."""

    class Reply(str):
        """No number."""

    replies: list[weakref.ref[Reply]] = []

    def judge(values: dict[str, str]) -> Reply:
        reply = Reply("no number " * 9)
        replies.append(weakref.ref(reply))
        return reply

    scorer = RunnableScorer(RunnableLambda(judge))
    llm = W2SLLM(proposer=Here(), scorer=scorer, strategy=BestOfN(n=2), max_tokens=2)
    with pytest.raises(ScorerError, match="must be a finite number") as kept:
        llm.invoke("x")
    gc.collect()
    assert replies
    assert not any(reply() for reply in replies), kept


def test_a_long_reply_is_refused_at_once() -> None:
    """The engine stands still while a message is written."""
    reply = "9 word" * 2**21
    [node] = nodes("x")
    before = time.thread_time()
    with pytest.raises(
        ScorerError, match=r"gave '9 word9 word9 .* must be a finite number"
    ) as told:
        RunnableScorer(RunnableLambda(lambda _: reply)).score([node])
    assert time.thread_time() - before < 0.5
    assert len(str(told.value)) < 600


class LocalJudge(BaseLLM):
    """A model that reads many texts at once, and breaks on a bad one."""

    read: list[list[str]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "local"

    def _generate(self, prompts: list[str], *_: Any, **__: Any) -> LLMResult:
        self.read.append(prompts)
        if any("bad" in prompt for prompt in prompts):
            raise TimeoutError("no answer")
        return LLMResult(generations=[[Generation(text=str(len(prompt)))] for prompt in prompts])


def test_a_judge_that_reads_many_at_once_gets_them_at_once(proposer: HuggingFaceProposer) -> None:
    judge = LocalJudge()
    chain = PromptTemplate.from_template("{response}") | judge
    scorer = RunnableScorer(chain, max_concurrency=3)
    assert scorer.score(nodes("a", "bb", "ccc", "dddd")) == [1.0, 2.0, 3.0, 4.0]
    assert [len(prompts) for prompts in judge.read] == [3, 1]
    judge.read.clear()
    timed = RunnableScorer(chain, timeout=10)
    assert timed.score(nodes("a", "bb")) == [1.0, 2.0]
    assert sorted(judge.read) == [["a"], ["bb"]], "control: a time limit for each response"
    with pytest.raises(TimeoutError, match="no answer"):
        scorer.score(nodes("a", "bad"))
    judge.read.clear()
    shared = {"proposer": proposer, "strategy": BestOfN(n=4), "max_tokens": 5, "seed": 0}
    by_judge = W2SLLM(scorer=RunnableScorer(chain), **shared).batch(["The movie", "x"])
    assert max(map(len, judge.read)) == 8, "both searches together"
    lengths = CallableScorer(lambda prompts, responses: [len(one) for one in responses])
    assert W2SLLM(scorer=lengths, **shared).batch(["The movie", "x"]) == by_judge


def test_in_a_search(proposer: HuggingFaceProposer) -> None:
    def vowels(text: str) -> int:
        return sum(text.count(letter) for letter in "aeiou")

    by_function = CallableScorer(lambda prompts, responses: [vowels(r) for r in responses])

    def rate(values: dict[str, str]) -> str:
        return str(vowels(values["response"]))

    judge = RunnableLambda(rate)
    shared: dict[str, Any] = {
        "proposer": proposer, "max_tokens": 16, "seed": 3,
        "strategy": ChunkBeamSearch(width=2, successors=3, chunk_tokens=4),
    }  # fmt: skip
    prompts = ["The movie", "x", "A boring film"]
    found = W2SLLM(scorer=by_function, **shared).batch(prompts)
    assert W2SLLM(scorer=RunnableScorer(judge), **shared).batch(prompts) == found
    shared["strategy"] = Sampling()
    plain = W2SLLM(**shared).batch(prompts)
    assert sum(map(vowels, found)) > sum(map(vowels, plain)), "control"


def test_a_failing_judge_fails_its_own_prompt_only(proposer: HuggingFaceProposer) -> None:
    def judge(values: dict[str, str]) -> Any:
        return "no idea" if values["prompt"] == "x" else 1.0

    llm = W2SLLM(
        proposer=proposer, scorer=RunnableScorer(RunnableLambda(judge)), max_tokens=8, seed=0,
        strategy=BestOfN(n=2),
    )  # fmt: skip
    good, bad = llm.batch(["The movie", "x"], return_exceptions=True)
    assert isinstance(good, str)
    assert isinstance(bad, ScorerError)


def test_a_judge_on_the_same_engine_is_refused(proposer: HuggingFaceProposer) -> None:
    """It would wait for ever; one on an engine of its own works."""
    outcomes = []
    engines: list[dict[str, Any]] = [{}, {"engine": Engine()}]
    for own in engines:
        inner = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=2, seed=0, **own)

        def judge(_: Any, inner: W2SLLM = inner) -> int:
            return len(inner.invoke("x"))

        for count in (1, 3):  # called on the engine's thread, and on threads of its own
            llm = W2SLLM(
                proposer=proposer, max_tokens=4, seed=0, strategy=BestOfN(n=count),
                scorer=RunnableScorer(RunnableLambda(judge)),
            )  # fmt: skip
            [answer] = llm.batch(["The movie"], return_exceptions=True)
            outcomes.append(answer)
    refused, refused_too, *fine = outcomes
    for error in (refused, refused_too):
        assert isinstance(error, W2SError)
        assert "engine of its own" in str(error)
    assert all(isinstance(answer, str) for answer in fine)


@pytest.mark.parametrize("returned", ["12", b"12", {1.0: 1, 2.0: 2}, {1.0, 2.0}])
def test_what_is_no_list_of_scores(returned: Any) -> None:
    with pytest.raises(
        ScorerError, match=r"returned \d+ scores for 2 resp.*it must return one for each"
    ):
        CallableScorer(lambda prompts, responses: returned).score(nodes("a", "bb"))


def test_a_judge_that_raises_stop_iteration(proposer: HuggingFaceProposer) -> None:
    def judge(values: dict[str, str]) -> Any:
        raise StopIteration

    llm = W2SLLM(
        proposer=proposer, scorer=RunnableScorer(RunnableLambda(judge)), max_tokens=4,
        strategy=BestOfN(n=2),
    )  # fmt: skip
    with pytest.raises(ScorerError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(llm.ainvoke("x"), 20))


def test_a_judge_that_hangs_is_left_to_itself() -> None:
    over = threading.Event()
    judge = RunnableLambda(lambda values: over.wait(30) if "bad" in values["response"] else 1.0)  # pyright: ignore[reportIndexIssue]
    scorer = RunnableScorer(judge, timeout=0.3, max_concurrency=1)
    good, bad, fine = nodes("good", "bad", "fine")
    with pytest.raises(ScorerError, match=r"no score within 0\.3 seconds; raise timeout"):
        scorer.score([good, bad, fine])
    assert scorer.score([good, fine]) == [1.0, 1.0]
    over.set()
    with pytest.raises(ConfigError, match="timeout is 0"):
        RunnableScorer(judge, timeout=0)


def test_which_runnables_only_wait() -> None:
    prompt = PromptTemplate.from_template("{response}")
    model = GenericFakeChatModel(messages=iter([]))
    assert _only_waits(prompt | model | StrOutputParser())
    assert _only_waits(model.bind(stop=["x"]))
    assert not _only_waits(prompt | model | RunnableLambda(len))  # pyright: ignore[reportOperatorIssue]
    assert not _only_waits(RunnableLambda(len))


def test_they_have_no_yaml_and_a_key_of_their_own(proposer: HuggingFaceProposer) -> None:
    one, two = CallableScorer(length), CallableScorer(length)
    keys = [str(W2SLLM(proposer=proposer, scorer=s)._identifying_params) for s in (one, two, one)]
    assert keys[0] == keys[2] != keys[1]
    for scorer in (one, RunnableScorer(RunnableLambda(len))):
        with pytest.raises(ConfigError, match=r"scorer \(\w+\) was built by hand|proposer"):
            W2SLLM(proposer=proposer, scorer=scorer).to_config()
