"""Thoughts are told apart from the answer, wherever the text is cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from w2s_chains.backend.chat.thoughts import ThoughtReader, thoughts_in
from w2s_chains.core.prompts import ThoughtFormat

TEXTS = st.text(alphabet="ab <>/think\n", max_size=12)


class Hasty(ThoughtReader):
    def text(self, new: str) -> tuple[str, str]:
        told = super().text(new)
        rest, self._held = self._held, ""
        return told[0] + rest, told[1]


def read(reader: ThoughtReader, text: str, places: list[int]) -> tuple[str, str]:
    cuts = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    told = [reader.text(text[a:b]) for a, b in pairwise(cuts)]
    thoughts, said = zip(*told, reader.rest(), strict=True)
    return "".join(thoughts), "".join(said)


@settings(max_examples=400, deadline=None)
@given(
    thought=TEXTS,
    said=TEXTS,
    begun=st.booleans(),
    ends=st.booleans(),
    places=st.lists(st.integers(0, 40), max_size=9),
)
@example(thought="a </thin", said="b", begun=True, ends=True, places=[4, 9, 12])
def test_cuts_change_nothing(
    thought: str, said: str, begun: bool, ends: bool, places: list[int]
) -> None:
    text = ("" if begun else "\n<think>") + thought + (f"</think>{said}" if ends else "")
    first, _, later = (thought + (f"</think>{said}" if ends else "")).partition("</think>")
    assert read(ThoughtReader(ThoughtFormat(begun=begun)), text, places) == (
        first.rstrip(),
        later.lstrip(),
    )


@given(text=TEXTS, places=st.lists(st.integers(0, 12), max_size=4))
def test_an_answer_that_begins_otherwise_has_no_thoughts(text: str, places: list[int]) -> None:
    text = f" so: {text}<think>a</think>b"
    assert read(ThoughtReader(ThoughtFormat()), text, places) == ("", text)


def test_what_only_looks_like_a_mark_is_said() -> None:
    assert read(ThoughtReader(ThoughtFormat()), " <thin", [2]) == ("", " <thin")


@pytest.mark.parametrize("cuts", [[], [3], [9, 12, 29], [*range(40)]])
def test_an_answer_may_say_that_it_has_no_thoughts(cuts: list[int]) -> None:
    form = thoughts_in("'<|channel|>analysis<|message|>' + thinking")
    assert form is not None
    thinking = f"{form.begin}a {form.end}b"
    assert read(ThoughtReader(form), thinking, cuts) == ("a", "b")
    assert read(ThoughtReader(form), f"{form.without}b", cuts) == ("", "b")
    assert read(ThoughtReader(form), "<|channel|>x", cuts) == ("", "<|channel|>x")
    plain = replace(form, without="")
    assert read(ThoughtReader(plain), f"{form.without}b", cuts) == ("", f"{form.without}b"), (
        "control"
    )


def test_a_hasty_reader_is_caught() -> None:
    """Control: who does not hold back the beginning of a mark takes it for a thought."""
    text, cut = "a</think>b", [4]
    assert read(ThoughtReader(ThoughtFormat(begun=True)), text, cut) == ("a", "b")
    assert read(Hasty(ThoughtFormat(begun=True)), text, cut) != ("a", "b")
