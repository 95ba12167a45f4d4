"""``Trace`` as a value: JSON that is read back, and files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s_chains import ConfigError, TokenRatio, Trace, TracedAnswer, TraceNode, TraceRound

TREE: dict[str, Any] = {
    "version": 1,
    "prompt": "p",
    "nodes": [
        {"id": 0, "round": 0, "text": "", "tokens": 0, "state": "answer"},
        {"id": 1, "parent": 0, "round": 1, "text": "a", "tokens": 1, "state": "answer"},
        {"id": 2, "parent": 0, "round": 1, "text": "b", "tokens": 1},
    ],
    "rounds": [{"number": 1, "expanded": [0], "proposed": [1, 2], "seconds": 0.5}],
    "answer": {"id": 1, "text": "a"},
}

texts = st.text(max_size=8)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    nodes = [TraceNode(id=0, round=0, text="", tokens=0, state="answer")]
    for id in range(1, draw(st.integers(1, 6))):
        nodes.append(
            TraceNode(
                id=id,
                parent=draw(st.integers(0, id - 1)),
                round=id,
                text=draw(texts),
                tokens=draw(st.integers(0, 9)),
                state=draw(st.sampled_from(["answer", "kept", "finished", "rejected"])),
                score=draw(st.one_of(st.none(), numbers)),
                ratios_from=0,
                ratios=draw(
                    st.one_of(
                        st.none(),
                        st.tuples(st.builds(TokenRatio, text=texts, ratio=numbers)),
                    )
                ),
            )
        )
    return Trace(
        prompt=draw(
            st.one_of(texts, st.tuples(st.fixed_dictionaries({"role": texts, "content": texts})))
        ),
        model=draw(texts),
        strategy={"type": "chunk_beam", "width": 2},
        seed=draw(st.integers(-(2**63), 2**127)),
        nodes=tuple(nodes),
        rounds=(TraceRound(number=1, expanded=(0,), proposed=(1,), seconds=0.25),),
        answer=draw(st.one_of(st.none(), st.builds(TracedAnswer, id=st.just(0), text=texts))),
    )


@settings(max_examples=100, deadline=None)
@given(traces())
def test_json_is_read_back(trace: Trace) -> None:
    again = Trace.from_json(trace.to_json())
    assert again == trace
    assert again.to_json() == trace.to_json()


def test_a_trace_says_where_it_leads() -> None:
    trace = Trace.from_json(json.dumps(TREE))
    assert trace.node(2).text == "b"
    assert [node.id for node in trace.path(1)] == [0, 1]
    assert trace.text(1) == "a"
    assert "1 rounds, 2 candidates, answer='a'" in repr(trace)
    assert str(trace) == repr(trace)
    talk = trace.model_copy(update={"prompt": ({"role": "user", "content": "hi"},)})
    assert talk.prompt_text == "user: hi"


def wrong(**changes: Any) -> str:
    return json.dumps({**TREE, **changes})


def nodes(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    found = [dict(node) for node in TREE["nodes"]]
    for change in changed:
        found[change["id"]] |= change
    return found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON|nested"),
        (b"\xff", "not JSON"),
        ("[]", "an object with a version"),
        ("{}", "an object with a version"),
        (wrong(version=2), "of version 2, and this w2s_chains reads version 1"),
        (wrong(version="1"), "of version '1'"),
        (wrong(nodes=[]), "nodes"),
        (wrong(nodse=[]), "nodse: unknown field"),
        (wrong(nodes=nodes({"id": 1, "score": "high"})), "nodes.1.score"),
        (wrong(nodes=nodes({"id": 2, "parent": 7})), "node 2 of the trace continues node 7"),
        (wrong(nodes=nodes({"id": 2, "parent": 2})), "node 2 of the trace continues node 2"),
        (wrong(nodes=nodes({"id": 2, "parent": None})), "node 2"),
        (wrong(nodes=TREE["nodes"] + TREE["nodes"][2:]), "two nodes of number 2"),
        (wrong(answer={"id": 9, "text": "a"}), "node 9, which is missing"),
    ],
)
def test_what_is_no_trace_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Trace.from_json(text)


def test_it_is_written_as_json_and_as_a_page(tmp_path: Path) -> None:
    trace = Trace.from_json(json.dumps(TREE))
    trace.save(tmp_path / "x.json")
    assert Trace.from_json((tmp_path / "x.json").read_bytes()) == trace
    trace.save(tmp_path / "x.html", trace)
    assert "<script" in (tmp_path / "x.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"written as \.html"):
        trace.save(tmp_path / "x.txt")
    with pytest.raises(ConfigError, match="one alone"):
        trace.save(tmp_path / "y.json", trace)
    with pytest.raises(ConfigError, match="cannot write the trace to"):
        trace.save(tmp_path / "missing" / "x.html")
