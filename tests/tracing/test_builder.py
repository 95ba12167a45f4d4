"""A trace from events: states, rounds, and the bound of its size."""

from __future__ import annotations

import pytest

from w2s_chains import Candidate, Committed, Finished, Grown, GuidedTokens, Progressed, Scored
from w2s_chains.tracing import TraceBuilder


def new(id: int, parent: int, text: str = "x", finished: bool = False) -> Candidate:
    reason = "eos" if finished else None
    return Candidate(id=id, parent=parent, text=text, tokens=1, finish_reason=reason)


def finished(id: int, text: str) -> Finished:
    return Finished(
        text=text, score=1.0, finish_reason="eos", completion_tokens=2, prompt_tokens=3,
        read_tokens=4, rounds=2, proposed_tokens=5, guide_tokens=6, id=id,
    )  # fmt: skip


def scored(*pairs: tuple[int, float]) -> Scored:
    ids, scores = zip(*pairs, strict=True)
    return Scored(texts=("",) * len(ids), scores=scores, ids=ids)


def test_states_say_what_became_of_each_candidate() -> None:
    builder = TraceBuilder(prompt="p", model="m", seed=7)
    builder.take(Grown(round=1, candidates=(new(1, 0), new(2, 0), new(3, 0, finished=True))))
    builder.take(scored((1, 0.5), (2, 0.25), (3, -1.0)))
    builder.take(Progressed(tokens=1))
    before = builder.trace()
    assert before.answer is None
    assert [node.state for node in before.nodes] == ["kept", "rejected", "rejected", "finished"]
    builder.take(Grown(round=2, candidates=(new(4, 1, "a", True), new(5, 2)), read_tokens=9))
    builder.take(Committed(text="x"))
    builder.take(scored((4, 2.0), (3, -1.0)))
    builder.take(finished(4, "xa"))
    trace = builder.trace()
    assert [node.state for node in trace.nodes] == [
        "answer", "answer", "kept", "finished", "answer", "rejected",
    ]  # fmt: skip
    assert [node.score for node in trace.nodes] == [None, 0.5, 0.25, -1.0, 2.0, None]
    assert [r.expanded for r in trace.rounds] == [(0,), (1, 2)]
    assert [r.proposed for r in trace.rounds] == [(1, 2, 3), (4, 5)]
    assert [r.committed for r in trace.rounds] == [0, 1]
    assert trace.rounds[1].read_tokens == 9
    assert 0 <= trace.rounds[0].seconds <= trace.rounds[1].seconds <= trace.seconds
    assert trace.answer is not None
    assert (trace.answer.text, trace.answer.read_tokens, trace.seed) == ("xa", 4, 7)
    assert trace.text(4) == "xa"


def test_ratios_go_to_their_nodes() -> None:
    builder = TraceBuilder(prompt="p")
    builder.take(Grown(round=1, candidates=(new(1, 0), new(2, 0))))
    tokens = {2: GuidedTokens(begin=0, texts=("x", ""), ratios=(0.5, -0.25))}
    builder.take(Scored(texts=("x", "x"), scores=(0, 1), ids=(1, 2), tokens=tokens))
    root, one, two = builder.trace().nodes
    assert root.ratios is one.ratios is None
    assert two.ratios is not None
    assert [(r.text, r.ratio) for r in two.ratios] == [("x", 0.5), ("", -0.25)]


def grown(limit: int | None, rounds: int = 50, characters: int | None = None) -> TraceBuilder:
    """Ten candidates a round, of which the first goes on and the others are let go of."""
    limits = {} if limit is None else {"most_nodes": limit}
    limits |= {} if characters is None else {"most_characters": characters}
    builder = TraceBuilder(prompt="p", **limits)
    tip, dropped = 0, ()
    for at in range(rounds):
        ids = range(10 * at + 1, 10 * at + 11)
        new_ones = tuple(new(id, tip, "0123456789") for id in ids)
        builder.take(Grown(round=at + 1, candidates=new_ones, dropped=dropped))
        builder.take(scored(*((id, 1.0) for id in ids)))
        tip, dropped = ids[0], tuple(ids[1:])
    builder.take(finished(tip, "0123456789" * rounds))
    return builder


@pytest.mark.parametrize("limits", [{"limit": 100}, {"limit": None, "characters": 1000}])
def test_a_large_tree_forgets_what_the_search_lets_go_of(limits: dict[str, int]) -> None:
    trace = grown(**limits).trace()
    assert len(trace.nodes) < 100 + 50 + 20
    assert trace.forgotten == 501 - len(trace.nodes)
    trace.check()
    assert trace.answer is not None
    assert trace.text(trace.answer.id) == trace.answer.text, "the path of the answer is whole"
    known = {node.id for node in trace.nodes}
    assert all(known >= {*r.proposed, *r.expanded} for r in trace.rounds)
    assert len([node for node in trace.nodes if node.round == 1]) == 10, "the first ones stay"


def test_a_small_tree_forgets_nothing() -> None:
    """Control."""
    trace = grown(None).trace()
    assert (len(trace.nodes), trace.forgotten) == (501, 0)


def test_a_dropped_node_whose_children_are_shown_stays() -> None:
    builder = TraceBuilder(prompt="p", most_nodes=1)
    builder.take(Grown(round=1, candidates=(new(1, 0), new(2, 0))))
    builder.take(Grown(round=2, candidates=(new(3, 1),)))
    builder.take(Grown(round=3, candidates=(new(4, 2),), dropped=(1, 3)))
    assert [node.id for node in builder.trace().nodes] == [0, 2, 4]
    builder.trace().check()


def test_half_a_surrogate_pair_is_replaced() -> None:
    """A proposer may write one; neither JSON nor a page can hold it."""
    builder = TraceBuilder(prompt="p")
    builder.take(Grown(round=1, candidates=(new(1, 0, "a\ud83db"),)))
    assert builder.trace().nodes[1].text == "a?b"
