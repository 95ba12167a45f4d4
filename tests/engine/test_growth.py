"""Several asks in one round, further children, and asks that a proposer cannot answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    CallableScorer,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    StrategyError,
    TokenSearch,
    W2SError,
)
from w2s_chains.core.asks import Until
from w2s_chains.search.base import Search, SearchStrategy, expand, expand_all


def searching(run: Any) -> SearchStrategy:
    """Runs a function as its search."""

    class Asks(SearchStrategy):
        type: Literal["asks"] = "asks"

        @property
        def needs_scorer(self) -> bool:
            return False

        def search(self, root: Hypothesis) -> Search:
            return (yield from run(root))

    return Asks()


class Numbered:
    """Names each child by the places of its ancestors; knows no ``first``."""

    abilities: frozenset[str] = frozenset()
    slice_tokens = 2

    def __init__(self) -> None:
        self.calls: list[list[tuple[int, int, int | None]]] = []

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        self.calls.append([(r.first, r.successors, r.chunk_tokens) for r in requests])
        return [
            [
                h.extend(f"{i}" * (request.chunk_tokens or 1), n_tokens=request.chunk_tokens or 1)
                for h in request.hypotheses
                for i in range(request.first, request.first + request.successors)
            ]
            for request in requests
        ]


class Numbering(Numbered):
    abilities = frozenset({"first"})


def answer(run: Any, proposer: Any, **options: Any) -> str:
    return W2SLLM(proposer=proposer, strategy=searching(run), max_tokens=64, **options).invoke("p")


def joined(*nodes: Hypothesis) -> Hypothesis:
    """An answer that tells texts."""
    text = "/".join(node.response for node in nodes)
    return nodes[0].origin.extend(text, n_tokens=1, finish_reason="eos")


def test_hypotheses_have_different_numbers_of_successors_in_one_round() -> None:
    def run(root: Hypothesis) -> Search:
        a, b = yield from expand([root], 2, 1)
        ours, theirs = yield from expand_all(
            [
                Expand(hypotheses=(a,), successors=3, chunk_tokens=1),
                Expand(hypotheses=(b,), successors=1, chunk_tokens=5),
            ]
        )
        return joined(*ours, *theirs)

    proposer = Numbered()
    assert answer(run, proposer) == "00/01/02/100000"
    assert proposer.calls == [
        [(0, 2, 1)],
        [(0, 3, 1), (0, 1, 2)],
        [(0, 1, 2)],  # a slice more of what is longer
        [(0, 1, 1)],
    ]


@pytest.mark.parametrize("proposer", [Numbered, Numbering])
def test_further_children_are_those_that_were_not_sampled_yet(proposer: Any) -> None:
    def run(root: Hypothesis) -> Search:
        [inner] = yield from expand([root], 1, 1)
        some = yield from expand([inner, root], 2, 3)
        more = yield from expand([inner, root], 3, 3, first=2)
        return joined(*some, *more)

    texts = answer(run, own := proposer()).split("/")
    inner = ["0" + f"{first}" * 2 + "0" for first in range(5)]
    outer = [f"{first}" * 2 + "0" for first in range(5)]
    assert texts == [*inner[:2], *outer[:2], *inner[2:], *outer[2:]]
    asked = [call for calls in own.calls for call in calls if call[1] > 2]
    assert asked == ([(0, 5, 2)] if proposer is Numbered else [(2, 3, 2)])


REFUSED = {
    "distinct": ({"distinct": True}, "without replacement, which the proposer Numbered cannot"),
    "until": ({"until": Until(entropy=1.0)}, "ends chunks at a place in the text"),
    "first": ({"first": -1}, "from number -1 on"),
    "drafts": ({"drafts": True}, "drafts, which need steering"),
    "by_guide": ({"by_guide": True}, "lets the tuned guide write words"),
    "by_guide, steered": ({"by_guide": True, "steering": 1.0}, "neither with steering nor with"),
    "drafts, steered": ({"drafts": True, "steering": 1.0}, "lets the tuned guide write drafts"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_proposer_cannot_answer_is_refused(name: str) -> None:
    options, message = REFUSED[name]

    def run(root: Hypothesis) -> Search:
        [child] = yield from expand([root], 1, 1, **options)
        return child

    proposer = Numbered()
    with pytest.raises(W2SError, match=message):
        answer(run, proposer)
    assert not proposer.calls


def test_no_asks_at_all_are_refused() -> None:
    def run(root: Hypothesis) -> Search:
        yield from expand_all([])
        return root

    with pytest.raises(StrategyError, match="give Expands some asks"):
        answer(run, Numbered())


def test_a_strategy_says_before_work_starts_what_it_needs() -> None:
    proposer = Numbered()
    llm = W2SLLM(
        proposer=proposer,
        scorer=CallableScorer(lambda prompts, responses: [0.0 for _ in responses]),
        strategy=TokenSearch(candidates=4, distinct=True),
    )
    with pytest.raises(ConfigError, match="draws candidates without replacement"):
        llm.invoke("p")
    assert not proposer.calls


@pytest.mark.parametrize("options", [{}, {"distinct": True}, {"first": 3}])
def test_a_sliced_chunk_equals_a_whole_one(options: dict[str, Any]) -> None:
    def run(root: Hypothesis) -> Search:
        children = yield from expand([root], 3, 20, **options)
        return joined(*children)

    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    texts: set[str] = set()
    for slice_tokens in (1, 7, 16, None):
        proposer.slice_tokens = slice_tokens
        texts.add(answer(run, proposer, seed=0))
    assert len(texts) == 1
    assert len({*texts.pop().split("/")}) == 3


def test_candidates_differ_in_their_first_token_only() -> None:
    """Later slices go on with each of them by itself."""
    asked: list[tuple[bool, int | None]] = []

    class Draws(Numbering):
        abilities = frozenset({"first", "distinct", "until"})

        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            asked.extend((r.distinct, r.chunk_tokens) for r in requests)
            return super().propose(requests)

    def run(root: Hypothesis) -> Search:
        apart = yield from expand([root], 2, 5, distinct=True)
        alike = yield from expand([root], 2, 3)
        return joined(*apart, *alike)

    answer(run, Draws())
    assert asked == [(True, 2), (False, 2), (False, 1), (False, 2), (False, 1)]


def test_a_chunk_that_ends_at_a_place_is_asked_for_in_one_piece() -> None:
    """The proposer alone knows where it ends."""
    asked: list[int | None] = []

    class Draws(Numbering):
        abilities = frozenset({"first", "until"})

        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            asked.extend(r.chunk_tokens for r in requests)
            return super().propose(requests)

    def run(root: Hypothesis) -> Search:
        line = Until(strings=("x",))
        return joined(
            *(yield from expand([root], 1, 5, until=line)),
            *(yield from expand([root], 1, None, until=line)),
            *(yield from expand([root], 1, 5)),
        )

    answer(run, Draws())
    assert asked == [5, None, 2, 2, 1]
