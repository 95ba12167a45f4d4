"""How much of a text is held back because a stop string may begin there."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from w2s_chains.engine.search_state import may_begin_stop

TEXT = st.text(alphabet="ab", max_size=8)


@given(TEXT, st.lists(st.text(alphabet="ab", min_size=1, max_size=5), max_size=3))
@example("ab", ["ab", "xyzw"])
@example("aab", ["abbb", "b"])
def test_it_is_the_longest_end_that_begins_a_stop_string(text: str, stop: list[str]) -> None:
    ends = [
        size
        for size in range(1, len(text) + 1)
        for one in stop
        if size < len(one) and one[:size] == text[len(text) - size :]
    ]
    assert may_begin_stop(text, stop) == max(ends, default=0)
