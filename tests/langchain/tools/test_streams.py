"""Streamed tool calls equal whole ones, wherever the stream is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from tests.helpers.tools import TALK, Weather, add, called, every_strategy, streamed
from w2s_chains import ChatW2S, SearchStrategy
from w2s_chains.core.prompts import DEFAULT_CALLS
from w2s_chains.langchain.tools import CallReader


@every_strategy
@pytest.mark.parametrize("choice", ["auto", "any", "none"])
def test_streamed_is_final(chat: ChatW2S, strategy: SearchStrategy, choice: str) -> None:
    bound = chat.bind_tools([add, Weather], tool_choice=choice, strategy=strategy)
    final, message = streamed(bound), bound.invoke(TALK)
    assert isinstance(message, AIMessage)
    assert final.content == message.content
    assert called(final) == called(message)
    assert bool(message.tool_calls) == (choice == "any")
    assert final.usage_metadata == message.usage_metadata
    assert final.response_metadata == message.response_metadata
    assert all(call["id"] for call in final.tool_calls)


PIECES = st.sampled_from(
    ["<", "<tool", "<tool_call>", "</tool_call>", "\n", " ", "{", '{"a": "', "Hi", "ä", "}", '"'],
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


def cut(text: str, places: Sequence[int]) -> list[str]:
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def read(reader: Any, pieces: Sequence[str]) -> tuple[str, list[tuple[str, Any]]]:
    said = "".join(reader.text(piece) for piece in pieces)
    rest, calls = reader.rest()
    return said + rest, [(call["name"], call["args"]) for call in calls]


class Hasty(CallReader):
    """Holds back nothing that may turn out to begin a call."""

    def text(self, new: str) -> str:
        return super().text(new) + self._let_go()

    def _let_go(self) -> str:
        if self._form.mark in self._held:
            return ""
        held, self._held = self._held, ""
        return held


ARGUMENTS = {"x": '</tool_call> {"<tool_call>'}
CALLED = f'<tool_call>\n{{"name": "f", "arguments": {json.dumps(ARGUMENTS)}}}\n</tool_call>'


@settings(max_examples=400, deadline=None)
@given(
    text=TEXTS, calls=st.integers(0, 2), places=st.lists(st.integers(0, 120), max_size=8),
    or_json=st.booleans(),
)  # fmt: skip
@example(text="a <tool", calls=1, places=[3, 9], or_json=False)
def test_cuts_change_nothing(text: str, calls: int, places: list[int], or_json: bool) -> None:
    text = text.replace("<tool_call>", "<tool call>")
    if or_json:
        text = "" if calls else f'{{"{text}'
    whole = text + "\n".join([CALLED] * calls)
    expected = (text.rstrip() if calls else text, [("f", ARGUMENTS)] * calls)
    pieces = cut(whole, places)
    assert read(CallReader(DEFAULT_CALLS, or_json), pieces) == expected
    assert read(CallReader(DEFAULT_CALLS, or_json), [whole]) == expected


def test_a_hasty_reader_is_caught() -> None:
    """Control: who does not hold back the beginning of a mark gives it away as text."""
    pieces = ["Well <tool", '_call>\n{"name": "f", "arguments": {}}\n</tool_call>']
    assert read(CallReader(DEFAULT_CALLS), pieces) == ("Well", [("f", {})])
    assert read(Hasty(DEFAULT_CALLS), pieces) == ("".join(pieces), [])


def test_nothing_is_held_back_longer_than_it_must_be() -> None:
    reader = CallReader(DEFAULT_CALLS)
    assert [reader.text(piece) for piece in ("a b <", "b", " <tool_", "x ", "y")] == [
        "a b", " <b", "", " <tool_x", " y",
    ]  # fmt: skip
