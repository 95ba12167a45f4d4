"""All ways to call a W2SLLM: stop strings, several answers, overrides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.prompts import PromptTemplate

from tests.helpers.llms import PROMPT, PROMPTS, endless, every_strategy, forwards
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    HuggingFaceProposer,
    Sampling,
    SearchStrategy,
)
from w2s_chains.errors import ConfigError

# Ways to call.


@every_strategy
@pytest.mark.parametrize("stop", [(), ("a", "的", "  ")], ids=["", "stop"])
def test_all_ways_to_call_agree(llm: W2SLLM, strategy: SearchStrategy, stop: tuple[str]) -> None:
    llm = llm.model_copy(update={"strategy": strategy, "stop": stop})
    answer = llm.invoke(PROMPT)
    assert llm.invoke(PROMPT) == answer
    assert "".join(llm.stream(PROMPT)) == answer
    assert llm.batch([PROMPT]) == [answer]
    assert llm.batch([PROMPT], return_exceptions=True) == [answer]
    assert llm.generate([PROMPT]).generations[0][0].text == answer
    assert not any(s in answer for s in stop)
    # Control: another seed, another answer.
    assert any(llm.invoke(PROMPT, seed=seed) != answer for seed in (1, 2, 3))


@pytest.mark.parametrize(
    "strategy", [Sampling(), EmulatedFineTuning(), ChunkBeamSearch(width=1, chunk_tokens=3)]
)
def test_a_stream_comes_in_pieces(llm: W2SLLM, strategy: SearchStrategy) -> None:
    llm = endless(llm, strategy, 60)
    pieces = list(llm.stream(PROMPT))
    assert sum(map(bool, pieces)) > 2
    assert "".join(pieces) == llm.invoke(PROMPT)


def test_the_first_text_comes_before_the_search_ends(llm: W2SLLM) -> None:
    """Control for the test above: pieces must not be one answer cut up at the end."""
    stream = endless(llm, Sampling(), 100).stream(PROMPT)
    before = forwards(llm)
    next(stream)
    early = forwards(llm) - before
    list(stream)
    assert early < (forwards(llm) - before) / 2


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    temperature=st.just(0.0) | st.floats(1e-6, 1e6),
    top_p=st.floats(1e-6, 1.0),
    top_k=st.none() | st.integers(1, 1000),
    repetition_penalty=st.floats(0.1, 10),
    seed=st.integers(-(2**70), 2**70),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=3),
    prompt=st.text(min_size=1, max_size=20),
)
def test_any_valid_sampling_gives_the_same_answer_twice(
    llm: W2SLLM, prompt: str, **sampling: Any
) -> None:
    answer = llm.invoke(prompt, max_tokens=5, **sampling)
    assert "".join(llm.stream(prompt, max_tokens=5, **sampling)) == answer
    assert llm.batch([PROMPT, prompt], max_tokens=5, **sampling)[1] == answer
    assert not any(s in answer for s in sampling["stop"])


def test_greedy_ignores_the_seed(llm: W2SLLM) -> None:
    greedy = llm.bind(temperature=0, strategy=Sampling())
    assert greedy.invoke(PROMPT, seed=1) == greedy.invoke(PROMPT, seed=2)


def test_no_seed_draws_a_fresh_one_for_every_answer(llm: W2SLLM) -> None:
    free = llm.model_copy(update={"seed": None, "strategy": Sampling()})
    answers = [*free.batch([PROMPT] * 4), free.invoke(PROMPT), free.invoke(PROMPT)]
    assert len(set(answers)) > 3
    fixed = llm.batch([PROMPT] * 4)  # control
    assert len(set(fixed)) == 1


# Stop strings.


@pytest.mark.parametrize("streamed", [False, True])
def test_stop_as_text_or_list_per_call_or_configured(llm: W2SLLM, streamed: bool) -> None:
    def call(llm: W2SLLM, **options: Any) -> str:
        return "".join(llm.stream(PROMPT, **options)) if streamed else llm.invoke(PROMPT, **options)

    llm = llm.model_copy(update={"strategy": Sampling(), "max_tokens": 30})
    whole = call(llm)
    assert len(whole) > 5
    mark = whole[len(whole) // 2 :][:2]
    cut = whole[: whole.index(mark)]
    assert cut != whole
    assert call(llm, stop=[mark]) == call(llm, stop=mark) == cut
    assert call(llm.model_copy(update={"stop": (mark,)})) == cut
    assert W2SLLM(proposer=llm.proposer, stop=mark).stop == (mark,)
    # What a call says replaces what is configured.
    assert call(llm.model_copy(update={"stop": (mark,)}), stop=[]) == whole
    assert call(llm, stop=["never in it"]) == whole
    first = llm.generate([PROMPT], stop=[mark]).generations[0][0]
    assert first.generation_info is not None
    assert first.generation_info["finish_reason"] == "stop"


# Several answers.


def test_n_answers_come_from_different_seeds_and_the_first_is_that_of_one(llm: W2SLLM) -> None:
    one = llm.generate(PROMPTS[:3]).generations
    many = llm.generate(PROMPTS[:3], n=4).generations
    assert [len(own) for own in many] == [4, 4, 4]
    assert [own[0].text for own in many] == [own[0].text for own in one]
    assert all(len({g.text for g in own}) > 2 for own in many)
    again = llm.model_copy(update={"n": 4}).generate(PROMPTS[:3]).generations
    assert [[g.text for g in own] for own in again] == [[g.text for g in own] for own in many]
    assert llm.invoke(PROMPTS[0], n=4) == one[0][0].text


def test_n_answers_read_the_prompt_once(llm: W2SLLM, proposer: HuggingFaceProposer) -> None:
    llm.generate([PROMPT], n=4)
    assert proposer.lm.counters.prefills == 1


# Overrides.


def test_a_call_can_override_everything_that_answers_depend_on(llm: W2SLLM) -> None:
    changed = {
        "max_tokens": 3, "temperature": 0.0, "seed": 9, "top_p": 0.3, "top_k": 2,
        "repetition_penalty": 3.0, "stop": ["e"], "strategy": Sampling(), "n": 2,
    }  # fmt: skip
    before = llm.asdict()
    for name, value in changed.items():
        rebuilt = W2SLLM(
            **{**{f: getattr(llm, f) for f in W2SLLM.model_fields}, name: value}
        ).invoke(PROMPT)
        assert llm.invoke(PROMPT, **{name: value}) == rebuilt, name
        assert llm.bind(**{name: value}).invoke(PROMPT) == rebuilt, name
    assert llm.asdict() == before
    assert len(llm.proposer.tokenizer.encode(llm.invoke(PROMPT, max_tokens=3))) <= 9
    # Control: most of them change the answer.
    answers = {llm.invoke(PROMPT, **{name: value}) for name, value in changed.items()}
    assert len(answers) > 5


def test_a_strategy_may_be_a_mapping(llm: W2SLLM) -> None:
    as_object = llm.invoke(PROMPT, strategy=BestOfN(n=5))
    assert llm.invoke(PROMPT, strategy={"type": "best_of_n", "n": 5}) == as_object
    assert as_object != llm.invoke(PROMPT)
    built = W2SLLM(proposer=llm.proposer, strategy={"type": "best_of_n", "n": 5})
    assert built.strategy == BestOfN(n=5)


def test_other_prompts_than_text(llm: W2SLLM) -> None:
    assert llm.invoke([("human", "hi")]) == llm.invoke("Human: hi")
    value = PromptTemplate.from_template("{a}!").invoke({"a": "hi"})
    assert llm.invoke(value) == llm.invoke("hi!")


def test_a_stream_of_several_answers_is_refused(llm: W2SLLM) -> None:
    with pytest.raises(ConfigError, match=r"n is 2; set n=1"):
        next(iter(llm.stream(PROMPT, n=2)))
