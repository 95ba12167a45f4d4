"""Tools and structured output of the embedded model."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from tests.helpers.tools import METHODS, add, called, every_strategy, shout, streamed
from w2s_chains import ChatW2S, ChunkBeamSearch, EmulatedFineTuning, Sampling, SearchStrategy


@pytest.fixture(scope="module")
def smollm() -> ChatW2S:
    return ChatW2S.from_pretrained(
        "embedded:smollm2-135m-instruct",
        tuned="embedded:reviews-tuned",
        untuned="embedded:reviews-untuned",
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=8),
        temperature=0.0,
        max_tokens=80,
        seed=0,
    )


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.mark.parametrize("method", METHODS)
@every_strategy
def test_smollm_structured(smollm: ChatW2S, method: Any, strategy: SearchStrategy) -> None:
    if isinstance(strategy, EmulatedFineTuning):
        strategy = ChunkBeamSearch(width=1, successors=2, chunk_tokens=None)  # other vocabularies
    model = smollm.with_structured_output(Person, method=method, strategy=strategy)
    question = "Zoë is 29 years old. Who is it? Answer in JSON with name and age."
    person = model.invoke(question)
    assert isinstance(person, Person)
    if isinstance(strategy, Sampling):
        assert (person.name, person.age) == ("Zoë", 29)


def test_smollm_calls_the_tool_it_has_to(smollm: ChatW2S) -> None:
    bound = smollm.bind_tools([add, shout], tool_choice="add", strategy=Sampling())
    message = bound.invoke("What is 3 + 4?")
    assert called(message) == [("add", {"a": 3, "b": 4})]
    assert called(streamed(bound, "What is 3 + 4?")) == called(message)
    free = smollm.bind_tools([add, shout]).invoke("Tell me a joke.")
    assert free.content or free.tool_calls
