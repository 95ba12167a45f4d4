"""W2SLLM and ChatW2S as objects: copied, shown, and counting tokens."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue

from tests.helpers import tiny
from tests.helpers.llms import PROMPT, text
from w2s_chains import W2SLLM, ChatW2S, HuggingFaceProposer, Proposer, Sampling
from w2s_chains.errors import ConfigError, W2SError


def test_copies_share_the_parts_and_nothing_is_pickled(model: Any) -> None:
    answer = text(model.invoke(PROMPT))
    for other in (
        copy.copy(model), copy.deepcopy(model), model.model_copy(), model.model_copy(deep=True),
        model.bind(seed=0).bound, model.with_config(tags=["x"]).bound,
    ):  # fmt: skip
        assert type(other) is type(model)
        for part in ("proposer", "scorer", "engine"):
            assert getattr(other, part) is getattr(model, part)
        assert text(other.invoke(PROMPT)) == answer
    other = copy.deepcopy(model)
    other.seed = 5
    assert model.seed == 0
    with pytest.raises(W2SError, match=r"cannot be pickled.*to_config.*from_config"):
        pickle.dumps(model)


def test_langchain_can_show_it_and_does_not_serialise_it(model: Any) -> None:
    model.invoke(PROMPT)
    for thing in (model, model.bind(seed=1), model | StrOutputParser()):
        assert "not_implemented" in str(dumpd(thing))
    assert dumpd(model)["type"] == "not_implemented"
    assert "ChunkBeamSearch" in dumpd(model)["repr"]
    assert not model.is_lc_serializable()
    assert "Llama" not in repr(model)
    assert set(model.model_dump()) & {"proposer", "scorer", "guide", "engine"} == set()
    assert model.model_dump()["strategy"]["width"] == 2


def test_tokens_are_counted_by_the_large_model(model: Any) -> None:
    encode = model.proposer.tokenizer.encode
    assert len(model.get_token_ids(PROMPT)) == len(encode(PROMPT)) != len(PROMPT.split())
    own = model.model_copy(update={"custom_get_token_ids": lambda text: [1, 2]})
    assert own.get_num_tokens(PROMPT) == 2
    long = [("human", "word " * 50), ("human", "short")]
    kept = trim_messages(long, max_tokens=40, token_counter=model, strategy="last")
    assert [message.content for message in kept] == ["short"]


def test_counts_of_a_raw_prompt_are_what_the_model_reads() -> None:
    proposer = HuggingFaceProposer(
        tiny.llama(320), tiny.byte_tokenizer(), template="Here is a story: {prompt}"
    )
    llm = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=4)
    for prompt in (PROMPT, "x"):
        [[answer]] = llm.generate([prompt]).generations
        assert answer.generation_info is not None
        assert llm.get_num_tokens(prompt) == answer.generation_info["prompt_tokens"]
    assert llm.get_num_tokens("x") > len(llm.get_token_ids("x")), "control: the template counts"
    assert llm.get_num_tokens("") == 0
    talk = [HumanMessage("Hi"), AIMessage("Hello"), HumanMessage("Bye")]
    llm.invoke(talk)
    [[answer]] = llm.generate_prompt([ChatPromptValue(messages=talk)]).generations
    assert answer.generation_info is not None
    assert llm.get_num_tokens_from_messages(talk) == answer.generation_info["prompt_tokens"]


@pytest.mark.parametrize("kind", [W2SLLM, ChatW2S])
def test_counts_without_a_tokenizer_are_refused(kind: Any) -> None:
    class Served(Proposer):
        def propose(self, requests: Any) -> Any:
            raise AssertionError

    model = kind(proposer=Served(), strategy=Sampling())
    for count in (
        lambda: model.get_num_tokens("x"),
        lambda: model.get_token_ids("x"),
        lambda: model.get_num_tokens_from_messages([HumanMessage("x")]),
    ):
        with pytest.raises(ConfigError, match=r"cannot be counted.*set tokenizer"):
            count()
    own = model.model_copy(update={"custom_get_token_ids": lambda text: [1, 2]})
    assert own.get_num_tokens("x") == 2
    assert own.get_num_tokens_from_messages([HumanMessage("x")]) == 2
