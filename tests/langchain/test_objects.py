"""W2SLLM and ChatW2S as objects: copied, shown, and counting tokens."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import trim_messages
from langchain_core.output_parsers import StrOutputParser

from tests.helpers.llms import PROMPT, text
from w2s_chains.errors import W2SError


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
    assert model.get_num_tokens(PROMPT) == len(encode(PROMPT)) != len(PROMPT.split())
    own = model.model_copy(update={"custom_get_token_ids": lambda text: [1, 2]})
    assert own.get_num_tokens(PROMPT) == 2
    long = [("human", "word " * 50), ("human", "short")]
    kept = trim_messages(long, max_tokens=40, token_counter=model, strategy="last")
    assert [message.content for message in kept] == ["short"]
