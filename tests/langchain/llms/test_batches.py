"""Batches of a W2SLLM, their failures, and how they are cancelled."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.helpers import tiny
from tests.helpers.llms import (
    BEAM,
    PROMPT,
    PROMPTS,
    BadScorer,
    both_guides,
    endless,
    every_strategy,
    forwards,
    nan_if_bad,
    wait_for_engine,
)
from w2s_chains import (
    W2SLLM,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    Sampling,
    SearchStrategy,
)
from w2s_chains.errors import ScorerError

# Batches.


@every_strategy
def test_a_batch_is_its_invokes_in_any_order(llm: W2SLLM, strategy: SearchStrategy) -> None:
    llm = llm.model_copy(update={"strategy": strategy})
    singles = [llm.invoke(prompt) for prompt in PROMPTS]
    assert len(set(singles)) > 10
    assert llm.batch(PROMPTS) == singles
    assert llm.batch(PROMPTS[::-1], return_exceptions=True) == singles[::-1]
    assert llm.batch(PROMPTS, {"max_concurrency": 5}) == singles
    # Control: the seed is what makes them equal.
    assert llm.batch(PROMPTS, seed=1) != singles


@pytest.mark.parametrize("budget", [1, 100])
def test_no_token_budget_changes_a_batch(llm: W2SLLM, pair: GuidePair, budget: int) -> None:
    tokenizer = tiny.byte_tokenizer()
    assert isinstance(llm.proposer, HuggingFaceProposer)
    small = HuggingFaceProposer(llm.proposer.lm.model, tokenizer, token_budget=budget)
    guides = [
        HuggingFaceGuide(g.lm.model, tokenizer, token_budget=budget) for g in both_guides(pair)
    ]
    cut = llm.model_copy(update={"proposer": small, "scorer": LogRatioScorer(GuidePair(*guides))})
    before = forwards(llm)
    whole = llm.batch(PROMPTS)
    assert cut.batch(PROMPTS) == whole
    assert forwards(cut) > forwards(llm) - before, "control: the budget cuts"


def test_a_batch_shares_model_calls(llm: W2SLLM) -> None:
    before = forwards(llm)
    for prompt in PROMPTS:
        llm.invoke(prompt)
    singles = forwards(llm) - before
    ways: list[dict[str, Any]] = [{}, {"return_exceptions": True}]
    for options in ways:
        before = forwards(llm)
        llm.batch(PROMPTS, **options)
        assert forwards(llm) - before < singles / 5, options


def test_more_prompts_than_the_engine_runs_at_once(llm: W2SLLM) -> None:
    prompts = [f"{i} film" for i in range(20)]
    few = llm.model_copy(update={"engine": Engine(max_live=3)})
    assert few.batch(prompts) == few.batch(prompts, return_exceptions=True) == llm.batch(prompts)


def test_an_empty_batch(llm: W2SLLM) -> None:
    assert llm.batch([]) == llm.batch([], return_exceptions=True) == []


def test_threads_do_not_mix_up_their_answers(llm: W2SLLM) -> None:
    singles = [llm.invoke(prompt) for prompt in PROMPTS]
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        answers[i] = "".join(llm.stream(PROMPTS[i])) if i % 2 else llm.invoke(PROMPTS[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [answers[i] for i in range(16)] == singles


# Failures.


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        (nan_if_bad, ScorerError, "BadScorer returned NaN"),
        (lambda hs: [0.0] * (len(hs) + 1), ScorerError, "scores for .* hypotheses"),
        (lambda hs: [], ScorerError, "returned 0 scores"),
        (lambda hs: 1 / 0, ZeroDivisionError, "division"),
        (lambda hs: ["x"] * len(hs), ScorerError, "returned 'x' for the text .* a number"),
        (lambda hs: None, ScorerError, r"returned 1 scores for .* \(None\)"),
        (lambda hs: dict.fromkeys(range(len(hs)), 1.0), ScorerError, r"one for each"),
    ],
    ids=["nan", "too many", "none", "raises", "text", "no list", "mapping"],
)
def test_a_bad_scorer_fails_its_own_prompt_only(
    proposer: HuggingFaceProposer, how: Any, error: type[Exception], told: str
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=BadScorer(how), strategy=BEAM, max_tokens=8, seed=0)
    prompts = ["good one", "bad one", "another good", "bad too", "the last"]
    good = [llm.invoke(prompt) for prompt in prompts if "bad" not in prompt]
    outcomes: list[Any] = llm.batch(prompts, return_exceptions=True)
    assert [outcomes[i] for i in (0, 2, 4)] == good
    for i in (1, 3):
        with pytest.raises(error, match=told):
            raise outcomes[i]
    with pytest.raises(error, match=told):
        llm.batch(prompts)
    with pytest.raises(error, match=told):
        list(llm.stream("bad one"))
    assert llm.batch(prompts[:1]) == good[:1], "the engine goes on"


def test_the_first_error_of_a_batch_is_told_while_others_still_run(
    proposer: HuggingFaceProposer,
) -> None:
    """A failing prompt that is not the first, and a first one that takes much longer."""
    llm = W2SLLM(
        proposer=proposer,
        scorer=BadScorer(lambda hs: 1 / 0),
        strategy=BEAM,
    )
    llm = endless(llm, BEAM, 300)
    before = forwards(llm)
    with pytest.raises(ZeroDivisionError):
        llm.batch([PROMPT, "bad"])
    wait_for_engine()
    assert forwards(llm) - before < 100, "the long one was stopped"


# Cancelling.


def long_llm(llm: W2SLLM) -> W2SLLM:
    return endless(llm, Sampling(), 200)


def test_an_interrupted_invoke_stops_the_engine(
    llm: W2SLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    llm = long_llm(llm)
    monkeypatch.setattr("w2s_chains.engine.waiting.EventStream.__next__", interrupt)
    before = forwards(llm)
    with pytest.raises(KeyboardInterrupt):
        llm.batch(PROMPTS[:4])
    wait_for_engine()
    assert forwards(llm) - before < 60


def test_the_engine_rests_when_there_is_nothing_to_do(llm: W2SLLM) -> None:
    llm.batch(PROMPTS[:3])
    wait_for_engine()
    assert llm.invoke(PROMPT) == llm.invoke(PROMPT)
