"""A thinking model: its thoughts are no part of the answer, streamed or not, and drop out later."""

from __future__ import annotations

import copy
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, convert_to_messages

from tests.helpers import tiny
from w2s_chains import (
    ChatW2S,
    HuggingFaceProposer,
    Prompt,
    Proposer,
    Sampling,
    ThoughtFormat,
)
from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking | default(true) %}{{ opening }}{% else %}"
    "<think>\n\n</think>\n\n{% endif %}"
)


class Speaking(Proposer):
    """Says one text in chunks of a fixed length."""

    def __init__(self, text: str, size: int, form: ThoughtFormat | None) -> None:
        self.said, self.size, self.form = text, size, form

    def thoughts(self, prompt: Any) -> ThoughtFormat | None:
        return self.form

    def propose(self, requests: Any) -> list[list[Hypothesis] | Exception]:
        return [self._children(request) for request in requests]

    def _children(self, request: Expand) -> list[Hypothesis]:
        [parent] = request.hypotheses
        text = self.said[parent.n_chars : parent.n_chars + self.size]
        ends = parent.n_chars + self.size >= len(self.said)
        return [parent.extend(text, n_tokens=1, finish_reason="eos" if ends else None)]


FORM = ThoughtFormat()


def chat(text: str, size: int = 3, form: ThoughtFormat | None = FORM, **fields: Any) -> ChatW2S:
    return ChatW2S(
        proposer=Speaking(text, size, form), strategy=Sampling(), max_tokens=99, **fields
    )


@pytest.mark.parametrize("size", [1, 3, 40])
def test_thoughts_are_no_content(size: int) -> None:
    model = chat("<think>\nSo be it. \n</think>\n\nYes, <think>!", size)
    whole = model.invoke("x")
    assert (whole.content, whole.additional_kwargs) == (
        "Yes, <think>!",
        {"reasoning_content": "\nSo be it."},
    )
    assert whole.content_blocks == [
        {"type": "reasoning", "reasoning": "\nSo be it."},
        {"type": "text", "text": "Yes, <think>!"},
    ]
    streamed: AIMessageChunk = reduce(add, model.stream("x"))
    assert (streamed.content, streamed.additional_kwargs) == (
        whole.content,
        whole.additional_kwargs,
    )
    control = chat("<think>a</think>b", size, None).invoke("x")
    assert control.content == "<think>a</think>b"
    assert "reasoning_content" not in control.additional_kwargs


def test_thoughts_that_the_prompt_has_begun() -> None:
    told = chat("a</think>b", form=ThoughtFormat(begun=True)).invoke("x")
    assert (told.content, told.additional_kwargs["reasoning_content"]) == ("b", "a")
    cut = chat("a and", form=ThoughtFormat(begun=True)).invoke("x")
    assert (cut.content, cut.additional_kwargs["reasoning_content"]) == ("", "a and")


def test_calls_come_after_thoughts() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    reader = chat("").model_copy(update={"tools": [tool]}).answer_reader(Prompt(text="x"))
    thought, said, calls = reader.whole(f"<think>{call}</think>Well.\n{call}")
    assert (thought, said, [one["name"] for one in calls]) == (call, "Well.", ["f"])


def test_what_must_be_json_has_no_thoughts() -> None:
    model = chat("", form=ThoughtFormat(begun=True))
    formed = model.model_copy(update={"response_format": {"type": "json_object"}})
    assert formed.answer_reader(Prompt(text="x")).whole('{"a": 1}') == ("", '{"a": 1}', [])
    assert model.answer_reader(Prompt(text="x")).whole('{"a": 1}') == ('{"a": 1}', "", []), (
        "control"
    )


@pytest.mark.parametrize(
    ("opening", "variables", "form"),
    [
        ("", {}, ThoughtFormat()),
        ("<think>\n", {}, ThoughtFormat(begun=True)),
        ("", {"enable_thinking": False}, ThoughtFormat()),
    ],
)
def test_the_template_says_how_thoughts_begin(
    opening: str, variables: dict[str, Any], form: ThoughtFormat
) -> None:
    own = copy.deepcopy(tiny.byte_tokenizer())
    own.chat_template = TEMPLATE.replace("{{ opening }}", opening)
    proposer = HuggingFaceProposer(tiny.llama(320), own, chat=True, chat_template_kwargs=variables)
    assert proposer.thoughts(Prompt(text="hi")) == form
    model = ChatW2S(proposer=proposer, strategy=Sampling(), max_tokens=6, temperature=0)
    assert model.profile is not None
    assert model.profile.get("reasoning_output") is True
    told = model.invoke("hi")
    side = told.additional_kwargs.get("reasoning_content", "") if form.begun else told.content
    assert side
    plain = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), chat=True)
    assert plain.thoughts(Prompt(text="hi")) is None


def test_earlier_thoughts_are_not_shown_again() -> None:
    own = copy.deepcopy(tiny.byte_tokenizer())
    own.chat_template = TEMPLATE
    proposer = HuggingFaceProposer(tiny.llama(320), own, chat=True)
    model = ChatW2S(proposer=proposer, strategy=Sampling())

    def count(answer: AIMessage) -> int:
        messages = convert_to_messages([("human", "a"), answer, ("human", "d")])
        return model.get_num_tokens_from_messages(messages)

    told = AIMessage("b", additional_kwargs={"reasoning_content": "c"})
    assert count(told) == count(AIMessage("<think>c</think>b")) == count(AIMessage("b"))
