"""Logits that are no numbers fail the search that met them, and never become an answer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Expand,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
    SamplingParams,
)
from w2s_chains.backend.sampling import chunks
from w2s_chains.errors import ProposerError, ScorerError

POISON = 290
"""A token of the vocabulary; a text that has it overflows."""
BEAM = ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)
VALUES = [float("nan"), float("inf")]


def when_poisoned(model: Any, change: Callable[[Any], None]) -> Any:
    """Change the logits of rows whose newest tokens include the poison."""
    forward = model.forward

    @functools.wraps(forward)
    def broken(*args: Any, **call: Any) -> Any:
        answer = forward(*args, **call)
        rows = (call["input_ids"] == POISON).any(1)
        if bool(rows.any()):
            logits = answer.logits.clone()
            changed = logits[rows]
            change(changed)
            logits[rows] = changed
            answer.logits = logits
        return answer

    model.forward = broken
    return model


def everywhere(value: float) -> Callable[[Any], None]:
    return lambda logits: logits.fill_(value)


def one_token(value: float) -> Callable[[Any], None]:
    return lambda logits: logits[..., 7].fill_(value)


def prompt(poisoned: bool) -> str:
    return str(tiny.byte_tokenizer().decode([40, 50, 60, POISON if poisoned else 70]))


def llm(proposer: Any, strategy: Any = None, scorer: Any = None, **options: Any) -> W2SLLM:
    values: dict[str, Any] = {"max_tokens": 8, "seed": 0, "temperature": 1.0, **options}
    return W2SLLM(proposer=proposer, strategy=strategy or Sampling(), scorer=scorer, **values)


def poisoned(change: Callable[[Any], None], dtype: Any = torch.float32) -> HuggingFaceProposer:
    model = when_poisoned(tiny.llama(320).to(dtype), change)
    return HuggingFaceProposer(model, tiny.byte_tokenizer())


def test_the_prompts_are_what_they_should_be() -> None:
    tokenizer = tiny.byte_tokenizer()
    assert tokenizer(prompt(True))["input_ids"][-1] == POISON
    assert POISON not in tokenizer(prompt(False))["input_ids"]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("where", [everywhere, one_token])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0}, {"repetition_penalty": 1.3}, {"top_p": 0.5}, {"top_k": 3}],
    ids=str,
)
def test_it_is_no_answer(where: Any, value: float, options: dict[str, Any]) -> None:
    one = llm(poisoned(where(value)), **options)
    with pytest.raises(ProposerError, match=r"'llama' in float32 .*NaN or inf.*bfloat16"):
        one.invoke(prompt(True))
    assert isinstance(one.invoke(prompt(False)), str)  # control


def test_a_token_that_the_model_excludes_is_none() -> None:
    answer = llm(poisoned(one_token(float("-inf")))).invoke(prompt(True))
    assert isinstance(answer, str)
    with pytest.raises(ProposerError):  # but not all of them
        llm(poisoned(everywhere(float("-inf")))).invoke(prompt(True))


def test_half_precision_is_named() -> None:
    with pytest.raises(ProposerError, match="in float16"):
        llm(poisoned(everywhere(float("nan")), torch.float16)).invoke(prompt(True))


def test_a_model_that_never_gives_numbers_fails_when_it_is_asked() -> None:
    model = tiny.llama(320)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(ProposerError, match="'llama' in float32"):
        llm(HuggingFaceProposer(model, tiny.byte_tokenizer())).invoke("The movie")


def test_only_the_search_that_met_it_fails() -> None:
    one = llm(poisoned(everywhere(float("nan"))))
    alone = one.invoke(prompt(False))
    answers = one.batch([prompt(False), prompt(True), "The movie"], return_exceptions=True)
    assert answers[0] == alone
    assert isinstance(answers[1], ProposerError)
    assert isinstance(answers[2], str)


def test_looking_costs_no_synchronisation(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = chunks.read_chosen
    monkeypatch.setattr(chunks, "read_chosen", lambda *own: reads.append(1) or real(*own))
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    proposer.propose(
        [Expand(hypotheses=(Hypothesis.root("The"),), sampling=SamplingParams(max_tokens=40))]
    )
    assert len(reads) == 1, "the tokens and their log-probabilities, once a chunk"


class Answer(BaseModel):
    good: bool


def test_neither_behind_a_constraint() -> None:
    one = poisoned(everywhere(float("nan")))
    from w2s_chains import ChatW2S

    chat = ChatW2S(proposer=one, strategy=Sampling(), max_tokens=30, seed=0, temperature=1.0)
    structured = chat.with_structured_output(Answer)
    assert isinstance(structured.invoke("The movie"), Answer)  # control
    with pytest.raises(ProposerError, match="NaN or inf"):
        structured.invoke(prompt(True))


def guide(change: Callable[[Any], None] | None, seed: int = 1) -> HuggingFaceGuide:
    model = tiny.llama(320, seed=seed)
    return HuggingFaceGuide(
        model if change is None else when_poisoned(model, change), tiny.byte_tokenizer()
    )


@pytest.mark.parametrize("role", ["tuned", "untuned"])
@pytest.mark.parametrize("value", VALUES)
def test_a_guide_without_numbers_fails_the_search(role: str, value: float) -> None:
    sound, broken = guide(None), guide(everywhere(value), seed=2)
    pair = GuidePair(broken, sound) if role == "tuned" else GuidePair(sound, broken)
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    for strategy, error in ((BEAM, ScorerError), (EmulatedFineTuning(beta=1.0), ProposerError)):
        one = llm(proposer, strategy, LogRatioScorer(pair))
        answers = one.batch([prompt(False), prompt(True)], return_exceptions=True)
        assert answers[0] == one.invoke(prompt(False))
        assert type(answers[1]) is error
        assert "'llama' in float32" in str(answers[1])


def test_a_guide_may_exclude_a_token() -> None:
    """Minus infinity is the loglikelihood of a text that cannot be."""
    excluding = guide(one_token(float("-inf")))
    root = Hypothesis.root(prompt(True))
    vocabulary = excluding.tokenizer.vocabulary
    never, other = (root.extend("x", (i,), vocabulary=vocabulary) for i in (7, 8))
    found = excluding.loglikelihood([never, other])
    assert found[0] == -math.inf
    assert math.isfinite(found[1])


def test_a_token_that_both_guides_exclude_is_left_to_the_proposer() -> None:
    """As padding of the vocabulary is; inf - inf would make every token NaN."""
    both = [guide(one_token(float("-inf")), seed) for seed in (1, 2)]
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    steered = llm(proposer, EmulatedFineTuning(beta=1.0), LogRatioScorer(GuidePair(*both)))
    plain = LogRatioScorer(GuidePair(guide(None, 1), guide(None, 2)))
    expected = llm(proposer, EmulatedFineTuning(beta=1.0), plain).invoke(prompt(True))
    assert steered.invoke(prompt(True)) == expected


def test_steering_beyond_all_bounds_is_an_error() -> None:
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    pair = GuidePair(guide(None, 1), guide(None, 2))
    unbounded = EmulatedFineTuning.model_construct(beta=1e38)  # as a strategy of one's own may be
    with pytest.raises(ProposerError, match="lower beta"):
        llm(proposer, unbounded, LogRatioScorer(pair)).invoke("The movie")
