"""What comes with a message of a ChatW2S: usage, metadata, profile."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler

from tests.helpers import tiny
from tests.helpers.chats import TALK
from tests.helpers.llms import PROMPT
from w2s_chains import ChatW2S, GuidePair, HuggingFaceProposer, LogRatioScorer, Sampling
from w2s_chains.errors import PromptError
from w2s_chains.langchain.messages import to_prompt


def test_usage_and_response_metadata(chat: ChatW2S, proposer: HuggingFaceProposer) -> None:
    message = chat.invoke(TALK)
    metadata, usage = message.response_metadata, message.usage_metadata
    read = len(proposer.tokenizer.prompt_ids(to_prompt(TALK)))
    assert usage is not None
    assert usage["input_tokens"] == metadata["prompt_tokens"] == read
    assert usage["output_tokens"] == metadata["completion_tokens"] <= 12
    assert usage["total_tokens"] == read + usage["output_tokens"]
    assert 12 <= metadata["proposed_tokens"] <= 48
    assert metadata["rounds"] <= metadata["read_tokens"] < metadata["proposed_tokens"]
    assert metadata["guide_tokens"] > 0
    assert metadata["guide_flops_ratio"] > 0
    assert metadata["finish_reason"] in ("length", "eos")
    assert metadata["model_name"] == "HuggingFaceProposer"
    assert metadata["score"] is not None
    usage = chat.invoke(TALK, strategy=Sampling(), max_tokens=1).usage_metadata
    assert usage is not None
    assert usage["output_tokens"] == 1


def test_usage_is_what_langchain_counts(chat: ChatW2S) -> None:
    counted = UsageMetadataCallbackHandler()
    messages = chat.batch([TALK, PROMPT], {"callbacks": [counted]})
    total = sum(message.usage_metadata["total_tokens"] for message in messages)
    assert counted.usage_metadata["HuggingFaceProposer"]["total_tokens"] == total > 0


def test_the_profile_is_true(chat: ChatW2S, foreign_pair: GuidePair) -> None:
    assert chat.profile is not None
    profile: dict[str, Any] = {**chat.profile}
    assert profile["max_input_tokens"] == 512
    assert profile["text_inputs"]
    assert profile["text_outputs"]
    assert not profile["image_inputs"]
    short = HuggingFaceProposer(
        tiny.llama(320, max_position_embeddings=64), tiny.byte_tokenizer(), chat=True
    )
    guided = ChatW2S(proposer=short, scorer=LogRatioScorer(foreign_pair))
    assert (guided.profile or {}).get("max_input_tokens") == 64
    with pytest.raises(PromptError, match="exceeds the 64 positions"):
        guided.invoke("word " * 64, max_tokens=1)
    assert ChatW2S(proposer=short, profile={"name": "mine"}).profile == {"name": "mine"}
    assert profile["tool_calling"] is profile["structured_output"] is True
    raw = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    untold: dict[str, Any] = {**(ChatW2S(proposer=raw, strategy=Sampling()).profile or {})}
    assert not untold["tool_calling"], "it reads no chat template"
    assert untold["structured_output"]
