"""Given texts, scored by hand between the ticks of searches."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.echo_server import serving
from tests.helpers.llms import both_guides
from w2s_chains import (
    W2SLLM,
    CallableScorer,
    ConfigError,
    Engine,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Message,
    Prompt,
    PromptError,
    RemoteGuide,
    ScorerError,
    W2SError,
    score_texts,
)
from w2s_chains.engine.texts import TOGETHER

PROMPTS = ["The movie was", "電影", "The movie was"]
TEXTS = [" great 😀", " and fun", " a bore."]


def test_they_are_the_pairs_own(pair: GuidePair) -> None:
    ended = [True, False, True]
    found = score_texts(pair, PROMPTS, TEXTS, ended)
    scores = LogRatioScorer(pair).score_texts(PROMPTS, TEXTS, ended)
    assert [one.ratio for one in found] == pytest.approx(scores, abs=1e-3)
    for one, text, end in zip(found, TEXTS, ended, strict=True):
        assert one.tokens is not None
        assert "".join(one.tokens.texts) == one.text == text
        assert sum(one.tokens.ratios) == pytest.approx(one.ratio, abs=1e-3)
        assert one.ended == one.tokens.ended == end
        assert one.score is None
    without = score_texts(pair, PROMPTS, TEXTS, [False] * 3)
    assert without[0].ratio != pytest.approx(found[0].ratio), "control: the end counts"
    assert score_texts(pair, PROMPTS, TEXTS)[0] == found[0], "by default it does"


def test_a_prompt_is_read_once_and_many_texts_are_read_together(pair: GuidePair) -> None:
    guide = both_guides(pair)[0]
    long = Prompt(messages=(Message(role="user", content="word " * 50),))
    score_texts(pair, [long], TEXTS[:1])
    forwards = guide.lm.counters.forwards
    score_texts(pair, [long] * 6, TEXTS * 2)
    assert guide.lm.counters.forwards == 2 * forwards
    many = [f" {i} and so on" for i in range(TOGETHER + 3)]
    found = score_texts(pair, ["x"] * len(many), many)
    assert [one.text for one in found] == many
    [alone] = score_texts(pair, ["x"], many[-1:])
    assert found[-1].ratio == pytest.approx(alone.ratio, abs=1e-4)


def test_a_scorer_scores_too(pair: GuidePair) -> None:
    scorer = CallableScorer(lambda prompts, texts: [float(len(text)) for text in texts])
    found = score_texts(pair, PROMPTS, TEXTS, scorer=scorer)
    assert [one.score for one in found] == [len(text) for text in TEXTS]


def test_searches_wait_for_the_turn(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    engine = Engine()
    llm = W2SLLM(proposer=proposer, guides=pair, engine=engine, max_tokens=12, seed=1)
    alone = llm.invoke("x")
    forwards, answers = proposer.lm.counters.forwards, []
    thread = threading.Thread(target=lambda: answers.append(llm.invoke("x")))
    with engine.turn():
        thread.start()
        time.sleep(0.3)
        assert proposer.lm.counters.forwards == forwards
        with pytest.raises(W2SError, match="engine that is waiting for it"):
            llm.invoke("x")  # which would wait for ever
    thread.join(20)
    assert answers == [alone]
    assert proposer.lm.counters.forwards > forwards, "control: it goes on afterwards"


def test_in_the_middle_of_searches_both_are_as_alone(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    engine = Engine()
    llm = W2SLLM(proposer=proposer, guides=pair, engine=engine, max_tokens=40, seed=1)
    alone = llm.invoke("x")
    expected = score_texts(pair, PROMPTS, TEXTS, engine=engine)
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(llm.invoke("x"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = score_texts(pair, PROMPTS, TEXTS, engine=engine)
        assert [one.ratio for one in found] == pytest.approx([one.ratio for one in expected])
    assert answers == [alone] * 3


def test_searches_go_on_while_a_server_is_asked(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    engine = Engine()
    llm = W2SLLM(proposer=proposer, guides=pair, engine=engine, max_tokens=4, seed=1)
    tuned, untuned = both_guides(pair)
    with (
        serving(tuned.lm.model, tuned.tokenizer.hf_tokenizer) as first,
        serving(untuned.lm.model, untuned.tokenizer.hf_tokenizer) as second,
    ):
        remote = GuidePair(
            *(RemoteGuide("m", base_url=s.url, end="</s>", timeout=20) for s in (first, second))
        )
        expected = score_texts(pair, PROMPTS, TEXTS, engine=engine)
        seen: list[Any] = []
        thread = threading.Thread(
            target=lambda: seen.extend(score_texts(remote, PROMPTS, TEXTS, engine=engine))
        )
        with first.lock:  # it answers nobody
            thread.start()
            time.sleep(0.2)
            assert llm.invoke("x")
            assert not seen, "control: the server has not answered yet"
        thread.join(30)
    assert [one.ratio for one in seen] == pytest.approx([o.ratio for o in expected], abs=1e-3)
    assert [one.tokens for one in seen] == [None] * 3


def test_a_part_cannot_ask_for_the_turn_it_has(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    engine = Engine()

    def asking(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        return [one.ratio for one in score_texts(pair, prompts, texts, engine=engine)]

    llm = W2SLLM(
        proposer=proposer, scorer=CallableScorer(asking), engine=engine, max_tokens=4, seed=1
    )
    with pytest.raises(W2SError, match="engine that is waiting for it"):
        llm.invoke("x")
    with pytest.raises(W2SError, match="engine that is waiting for it"):
        score_texts(pair, ["x"], ["y"], scorer=CallableScorer(asking), engine=engine)
    other = CallableScorer(lambda p, t: [one.ratio for one in score_texts(pair, p, t)])
    assert score_texts(pair, ["x"], ["y"], scorer=other, engine=engine), "control: another engine"


# What is refused.


def test_the_text_to_blame_is_named(pair: GuidePair) -> None:
    texts = [" good", " word" * 600, " bad"]
    with pytest.raises(PromptError, match=r"text 2: .* 512 positions"):
        score_texts(pair, ["x"] * 3, texts)
    with pytest.raises(PromptError, match=r"my\.txt:7: .* 512 positions"):
        score_texts(pair, ["x"], [texts[1]], places=["my.txt:7"])
    with pytest.raises(PromptError, match="text 3: the prompt is empty"):
        score_texts(pair, ["x", "x", ""], [" good"] * 3)
    with pytest.raises(PromptError, match="text 1 is no text of whole characters"):
        score_texts(pair, ["x"], ["\ud800"])


def test_other_arguments(pair: GuidePair) -> None:
    guides: Any = "embedded:reviews-tuned"
    with pytest.raises(ConfigError, match="give a GuidePair"):
        score_texts(guides, ["x"], ["y"])
    with pytest.raises(ScorerError, match="2 prompts, 1 texts"):
        score_texts(pair, ["x", "y"], ["z"])
    assert score_texts(pair, [], []) == []


def test_what_guides_return_is_checked() -> None:
    class Own:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> Any:
            return self.answer

    for wrong in (None, [], [1.0], [(1.0,)], [(1.0, "a")], [(1.0, float("nan"))]):
        own: Any = Own(wrong)
        with pytest.raises(ScorerError, match="the guide pair Own returned"):
            score_texts(own, ["x"], ["y"])
    good: Any = Own([(1.0, 0.5)])
    [found] = score_texts(good, ["x"], ["y"])
    assert (found.ratio, found.tokens) == (0.5, None)
