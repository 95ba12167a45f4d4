"""Batches of a ChatW2S, their failures and callbacks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from tests.helpers import tiny
from tests.helpers.chats import TALK, texts
from tests.helpers.llms import (
    BEAM,
    PROMPT,
    PROMPTS,
    BadScorer,
    Recorder,
    every_strategy,
    nan_if_bad,
)
from w2s_chains import (
    ChatW2S,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SearchStrategy,
)
from w2s_chains.errors import ScorerError


class Counted(HuggingFaceProposer):
    """Remembers how many searches each of its calls was for."""

    def __init__(self, chat: bool = True) -> None:
        super().__init__(tiny.llama(320), tiny.byte_tokenizer(), chat=chat)
        self.calls: list[int] = []

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        self.calls.append(len(requests))
        return super().propose(requests)


@every_strategy
def test_a_batch_is_its_invokes_in_any_order(chat: ChatW2S, strategy: SearchStrategy) -> None:
    chat = chat.model_copy(update={"strategy": strategy})
    singles = [chat.invoke(prompt).content for prompt in PROMPTS]
    assert len(set(singles)) > 10
    assert texts(chat.batch(PROMPTS)) == singles
    assert texts(chat.batch(PROMPTS[::-1], return_exceptions=True)) == singles[::-1]
    assert texts(chat.batch(PROMPTS, {"max_concurrency": 5})) == singles
    assert texts(chat.batch(PROMPTS, seed=1)) != singles, "control: the seed makes them equal"


@pytest.mark.parametrize("way", ["batch", "abatch", "generate", "agenerate", "ainvoke"])
def test_a_batch_shares_model_calls(scorer: LogRatioScorer, way: str) -> None:
    proposer = Counted()
    chat = ChatW2S(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=32, seed=0)
    prompts: list[list[BaseMessage]] = [[HumanMessage(prompt)] for prompt in PROMPTS]
    for prompt in prompts:
        chat.invoke(prompt)
    singles, proposer.calls = proposer.calls, []
    assert set(singles) == {1}, "control: alone, every call is for one search"

    async def gathered() -> None:
        await asyncio.gather(*map(chat.ainvoke, prompts))

    {
        "batch": lambda: chat.batch(prompts),
        "abatch": lambda: asyncio.run(chat.abatch(prompts)),
        "generate": lambda: chat.generate(prompts),
        "agenerate": lambda: asyncio.run(chat.agenerate(prompts)),
        "ainvoke": lambda: asyncio.run(gathered()),
    }[way]()
    assert sum(proposer.calls) == len(singles)
    # The first tick may run with whoever was there first; the others join at the next slice.
    assert max(proposer.calls) == len(PROMPTS)
    assert len(proposer.calls) < len(singles) / 5
    full = sum(size for size in proposer.calls if size >= len(PROMPTS) / 2)
    assert full > len(singles) / 2


def test_a_prompt_that_fails_harms_no_other(proposer: HuggingFaceProposer) -> None:
    class Bad(BadScorer):
        def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
            return nan_if_bad(
                [Hypothesis.root(h.prompt.plain_text).extend(h.response) for h in hypotheses]
            )

    chat = ChatW2S(proposer=proposer, scorer=Bad(nan_if_bad), strategy=BEAM, max_tokens=8, seed=0)
    prompts = ["good one", "bad one", "another good"]
    good = [chat.invoke(prompts[0]).content, chat.invoke(prompts[2]).content]
    recorder = Recorder()
    for outcomes in (
        chat.batch(prompts, {"callbacks": [recorder]}, return_exceptions=True),
        asyncio.run(chat.abatch(prompts, {"callbacks": [recorder]}, return_exceptions=True)),
    ):
        assert texts(outcomes[::2]) == good
        assert isinstance(outcomes[1], ScorerError)
    assert (recorder.starts, recorder.ends, recorder.errors) == (6, 4, 2)
    for call in (
        lambda: chat.batch(prompts),
        lambda: asyncio.run(chat.abatch(prompts)),
        lambda: chat.generate([[HumanMessage(prompt)] for prompt in prompts]),
        lambda: list(chat.stream("bad one")),
    ):
        with pytest.raises(ScorerError, match="NaN"):
            call()


def test_callbacks_of_a_batch_come_per_prompt(chat: ChatW2S) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    chat.batch([PROMPT, "x"], config)
    chat.generate([TALK, TALK], callbacks=[recorder])
    asyncio.run(chat.abatch([PROMPT, "x"], config))
    assert (recorder.starts, recorder.ends, recorder.errors) == (6, 6, 0)
    assert recorder.tokens == []
    result = chat.generate([TALK, TALK[1:]])
    assert len({run.run_id for run in result.run or []}) == 2
    assert chat.batch([]) == chat.generate([]).generations == asyncio.run(chat.abatch([])) == []
    chat.batch([PROMPT], {"callbacks": []})


def test_new_tokens_are_told_once(chat: ChatW2S) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    answer = chat.invoke(TALK, config).content
    assert recorder.tokens == []
    assert "".join(chunk.text for chunk in chat.stream(TALK, config)) == answer
    assert "".join(recorder.tokens) == answer
    assert (recorder.starts, recorder.ends) == (2, 2)
    fields: dict[str, Any] = {name: getattr(chat, name) for name in ChatW2S.model_fields}
    fields["streaming"] = True
    streaming = ChatW2S(**fields)
    streaming.invoke(TALK, config)
    assert "".join(recorder.tokens) == str(answer) * 2
