"""Thousands of calls at once, of which a third is cancelled: nothing is left of any."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from tests.helpers.polling import until
from w2s_chains import W2SLLM, CallableScorer, ChunkBeamSearch, Engine, Hypothesis
from w2s_chains.engine.job import SearchHandle

CALLS = 5000


class Letters:
    """A proposer of one letter a token; the letter is in the prompt."""

    def propose(self, requests):
        return [
            [self._next(h, r) for h in r.hypotheses for _ in range(r.successors)] for r in requests
        ]

    def _next(self, h: Hypothesis, request: Any) -> Hypothesis:
        count = min(request.chunk_tokens or 4, request.sampling.max_tokens - h.n_tokens)
        full = h.n_tokens + count == request.sampling.max_tokens
        text = h.prompt.plain_text[0] * count
        return h.extend(text, n_tokens=count, finish_reason="length" if full else None)


def alive() -> weakref.WeakSet[Any]:
    gc.collect()
    kinds = Hypothesis, SearchHandle
    return weakref.WeakSet(each for each in gc.get_objects() if type(each) in kinds)


def test_five_thousand_calls_leave_nothing() -> None:
    before = alive()  # of other tests, and they may go while this one runs
    engine = Engine()
    llm = W2SLLM(
        proposer=Letters(),
        scorer=CallableScorer(lambda prompts, texts: [float(len(text)) for text in texts]),
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=2),
        max_tokens=6,
        engine=engine,
    )
    letters = [chr(ord("a") + number % 26) for number in range(CALLS)]

    async def many() -> list[str | BaseException]:
        calls = [asyncio.create_task(llm.ainvoke(letter)) for letter in letters]
        await asyncio.sleep(0.2)  # some have ended, some run, and most wait
        for call in calls[::3]:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = asyncio.run(many())
    cancelled = [isinstance(answer, asyncio.CancelledError) for answer in answers]
    assert sum(cancelled[::3]) > CALLS / 4, "control: most of them were cancelled in time"
    for letter, answer, gone in zip(letters, answers, cancelled, strict=True):
        assert gone or answer == letter * 6
    assert not any(cancelled[1::3])
    until(lambda: engine._thread is None)
    assert (engine._thread, engine._live, dict(engine._waiting)) == (None, [], {})
    assert list(alive() - before) == []
    kept = Hypothesis.root("a")
    assert list(alive() - before) == [kept]  # control
