"""Log-ratios of single tokens: they sum to the score, cost nothing more, and are refused early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    W2SLLM,
    BaseGuidePair,
    ConfigError,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SamplingParams,
    ScorerError,
    Search,
    SearchStrategy,
    commit,
    drive,
    expand,
    score,
    token_ratios,
)
from w2s_chains.core.asks import TokenRatios
from w2s_chains.errors import StrategyError

PROMPT = "The movie was great and"


class Weighed(SearchStrategy):
    """Two chunks, with the scores and the ratios of both; the text of the answer tells both."""

    type: Literal["weighed"] = "weighed"

    @property
    def needs_token_ratios(self) -> bool:
        return True

    def search(self, root: Hypothesis) -> Search:
        chunks = yield from expand([root], 3, 6)
        live = [h for h in chunks if not h.finished]
        chunks += (yield from expand(live, 1, 6)) if live else []
        scores = yield from score(chunks)
        ratios = yield from token_ratios(chunks)
        assert (yield from token_ratios([])) == []
        for value, own in zip(scores, ratios, strict=True):
            assert sum(own) == pytest.approx(value, abs=1e-3)
        best = max(range(len(chunks)), key=lambda i: max(ratios[i], default=0.0))
        yield from commit(chunks[best])
        return chunks[best]


@pytest.fixture(params=["same", "foreign"])
def any_pair(request: pytest.FixtureRequest) -> GuidePair:
    return request.getfixturevalue("pair" if request.param == "same" else "foreign_pair")


def ending(proposer: HuggingFaceProposer) -> HuggingFaceProposer:
    """Many of its answers end soon."""
    proposer.tokenizer.end_ids = tuple(range(0, 320, 7))
    return proposer


def chunks(proposer: HuggingFaceProposer, root: Hypothesis) -> list[Hypothesis]:
    sampling = SamplingParams(max_tokens=20)
    first = proposer.propose(
        [Expand(hypotheses=(root,), successors=8, chunk_tokens=5, sampling=sampling)]
    )[0]
    live = tuple(h for h in first if not h.finished)
    return first + proposer.propose([Expand(hypotheses=live, sampling=sampling)])[0]


def by_hand(guide: HuggingFaceGuide, h: Hypothesis) -> list[float]:
    """log p of each token of an answer by one plain forward."""
    tokenizer = guide.tokenizer
    prompt = list(tokenizer.prompt_ids(h.prompt))
    if h.vocabulary == tokenizer.vocabulary:
        ids = [*prompt, *(h.response_ids or ())]
        begin = len(prompt)
    else:
        ids = list(tokenizer.ids_with_response(h.prompt, h.response))
        begin = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), 0)
        begin = begin or len(prompt)
    if h.ended:
        assert tokenizer.end_id is not None
        ids.append(tokenizer.end_id)
    with torch.inference_mode():
        table = guide.lm.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [float(table[i - 1, ids[i]]) for i in range(begin, len(ids))]


def test_they_are_those_of_plain_forwards_and_sum_to_the_score(
    proposer: HuggingFaceProposer, any_pair: GuidePair
) -> None:
    found = chunks(ending(proposer), Hypothesis.root(PROMPT))
    assert {h.ended for h in found} == {True, False}
    ratios = any_pair.token_ratios(found)
    tuned, untuned = both_guides(any_pair)
    for h, own, (ours, theirs) in zip(found, ratios, any_pair.loglikelihoods(found), strict=True):
        assert sum(own) == pytest.approx(ours - theirs, abs=1e-3)
        expected = [a - b for a, b in zip(by_hand(tuned, h), by_hand(untuned, h), strict=True)]
        assert own == pytest.approx(expected, abs=1e-3)
        if h.ended:
            assert abs(own[-1]) > 1e-3
            assert sum(own[:-1]) != pytest.approx(ours - theirs, abs=1e-3), "control: without it"


def test_nothing_is_read_twice(proposer: HuggingFaceProposer, any_pair: GuidePair) -> None:
    root = Hypothesis.root(PROMPT)
    found = chunks(ending(proposer), root)
    guides = both_guides(any_pair)

    def counted() -> list[int]:
        return [g.lm.counters.forwards for g in guides] + [root.usage.guide_tokens]

    any_pair.loglikelihoods(found)
    read = counted()
    any_pair.token_ratios(found)
    any_pair.token_ratios(found[::-1])
    assert counted() == read
    other = Hypothesis.root(PROMPT + "!")
    any_pair.token_ratios(chunks(proposer, other))
    read, once = counted(), other.usage.guide_tokens
    assert once > 0, "control: new texts are read, once"
    any_pair.loglikelihoods([other])
    assert counted() == read


def test_a_strategy_asks_for_them(proposer: HuggingFaceProposer, any_pair: GuidePair) -> None:
    llm = W2SLLM(
        proposer=ending(proposer), guides=any_pair, strategy=Weighed(), max_tokens=20, seed=1
    )
    prompts = [PROMPT, "x", "a longer prompt than the others"]
    alone = [llm.invoke(prompt) for prompt in prompts]
    assert llm.batch(prompts) == alone
    forwards = [guide.lm.counters.forwards for guide in both_guides(any_pair)]

    class Without(Weighed):
        def search(self, root: Hypothesis) -> Search:
            search, answer = Weighed.search(self, root), None
            while True:
                try:
                    ask = search.send(answer)
                except StopIteration as stop:
                    return stop.value
                answer = yield ask

    assert llm.invoke(prompts[0], strategy=Without()) == alone[0]
    assert [guide.lm.counters.forwards for guide in both_guides(any_pair)] > forwards


def test_it_runs_without_models() -> None:
    def propose(ask: Expand) -> list[Hypothesis]:
        return [
            h.extend("ab"[i % 2], (i,), finish_reason="eos")
            for h in ask.hypotheses
            for i in range(ask.successors)
        ]

    trace = drive(
        Weighed(), propose, lambda h: 3.0, ratios=lambda h: (1.0, 2.0) if h.text == "b" else (3.0,)
    )
    assert trace.answer.response == "a"
    asked = [ask for ask in trace.asks if isinstance(ask, TokenRatios)]
    assert [len(ask.hypotheses) for ask in asked] == [3, 0]


# What is refused.


class Own:
    """Guides of another package."""

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        return [(1.0, 0.0) for _ in hypotheses]


class Telling(Own):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def token_ratios(self, hypotheses: Sequence[Hypothesis]) -> Any:
        return self.answer(hypotheses)


def asking(proposer: HuggingFaceProposer, pair: Any) -> W2SLLM:
    scorer = LogRatioScorer(pair)
    return W2SLLM(proposer=proposer, scorer=scorer, guides=pair, strategy=Weighed(), max_tokens=8)


def test_two_vocabularies_are_refused_before_work_starts(
    proposer: HuggingFaceProposer, pair: GuidePair, foreign_pair: GuidePair
) -> None:
    mixed = GuidePair(pair.tuned, foreign_pair.untuned)
    with pytest.raises(ConfigError, match="two local guides with one vocabulary"):
        asking(proposer, mixed).invoke("x")
    assert proposer.lm.counters.forwards == 0


def test_guides_that_cannot_tell_go_on_working_without(proposer: HuggingFaceProposer) -> None:
    llm = asking(proposer, Own())
    with pytest.raises(ConfigError, match="more than the guide pair Own can tell"):
        llm.invoke("x")
    assert proposer.lm.counters.forwards == 0
    assert BaseGuidePair.of(Own()).loglikelihoods([Hypothesis.root("x")]) == [(1.0, 0.0)]
    assert llm.invoke("x", strategy="best_of_n")


def test_without_guides_it_is_refused(proposer: HuggingFaceProposer, pair: GuidePair) -> None:
    llm = asking(proposer, pair).model_copy(update={"guides": None})
    with pytest.raises(ConfigError, match="but there are no guides"):
        llm.invoke("x")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda hypotheses: None, "numbers for the tokens of 1 texts of"),
        (lambda hypotheses: [()], "numbers for the tokens of 1 texts of"),
        (lambda hypotheses: [1.0 for _ in hypotheses], "no number for a token"),
        (lambda hypotheses: [("a",) for _ in hypotheses], "a score must be a number"),
        (lambda hypotheses: [(float("nan"),) for _ in hypotheses], "returned NaN"),
    ],
)
def test_what_is_no_numbers_is_refused(
    proposer: HuggingFaceProposer, answer: Any, message: str
) -> None:
    with pytest.raises(ScorerError, match=message):
        asking(proposer, Telling(answer)).invoke("x")


def test_own_guides_may_tell(proposer: HuggingFaceProposer) -> None:
    pair = Telling(lambda hypotheses: [[1.0] for _ in hypotheses])
    BaseGuidePair.of(pair).check_token_ratios()
    assert asking(proposer, pair).invoke("x")


def test_an_answer_that_the_guides_cut_differently_is_refused() -> None:
    """A template's last character may go into the answer's first token."""
    base, tokenizer = tiny.llama(320, seed=1), tiny.byte_tokenizer()
    pair = GuidePair(
        HuggingFaceGuide(tiny.noisy(base), tokenizer, template="{prompt}\n"),
        HuggingFaceGuide(base, tokenizer, template="{prompt} t"),
    )
    text = Hypothesis.root("x").extend("he", n_tokens=1)
    tuned, untuned = (
        guide.tokenizer.ids_with_response(text.prompt, "he") for guide in both_guides(pair)
    )
    assert len(tuned) != len(untuned), "control"
    with pytest.raises(ScorerError, match="into different tokens"):
        pair.token_ratios([text])


def test_who_yields_something_else_is_told_of_it() -> None:
    class Wrong(Weighed):
        def search(self, root: Hypothesis) -> Search:
            yield "?"  # pyright: ignore[reportReturnType]  # that is what is wrong
            return root

    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    pair = Telling(lambda hypotheses: [])
    with pytest.raises(StrategyError, match="TokenRatios, Commit or RandomStream"):
        asking(proposer, pair).model_copy(update={"strategy": Wrong()}).invoke("x")
