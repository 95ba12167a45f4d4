"""Monte Carlo tree search: selection and backup by hand, its asks, and on models."""

from __future__ import annotations

import functools
import math
import random
import weakref
from typing import Any

import pytest

from tests.helpers.llms import PROMPTS
from w2s_chains import (
    MCTS,
    W2SLLM,
    ChunkBeamSearch,
    ConfigError,
    Expand,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    SearchStrategy,
    expand,
)
from w2s_chains.core.asks import Score
from w2s_chains.search import Search, build_strategy
from w2s_chains.search.steps.mcts import Node, chunk_logprobs, mean_surprise, priors
from w2s_chains.testing import drive

ROOT = Hypothesis.root("")


def letters(ask: Expand, length: int = 4) -> list[Hypothesis]:
    """A chunk of one token, whose letter is the child's number and whose chance halves with it."""
    return [
        h.extend(
            "abcdefgh"[i],
            (i,),
            finish_reason="length" if h.n_tokens + 1 == length else None,
            logprobs=(-math.log(2) * (i + 1),),
        )
        for h in ask.hypotheses
        for i in range(ask.successors)
    ]


def expanded(strategy: MCTS, of: Any, length: int = 4) -> list[str]:
    trace = drive(strategy, lambda ask: letters(ask, length), of)
    assert all(a.successors == strategy.successors for a in trace.expansions)
    return [h.response for a in trace.expansions for h in a.hypotheses]


def test_the_largest_puct_value_is_selected() -> None:
    def child(value: float, prior: float, visits: int) -> Node:
        return Node(hypothesis=ROOT.extend("x"), value=value, prior=prior, visits=visits)

    # 0.5 + 2 * 0.2 * 3 / 4 * (1 + 0.1 * 2) = 0.86, and 0.1 + 2 * 0.6 * 3 / 5 * 1.2 = 0.964.
    node = Node(hypothesis=ROOT, visits=9, entropy=2.0)
    node.children = [child(0.5, 0.2, 3), child(0.1, 0.6, 4), child(0.1, 0.2, 4)]

    def place(exploration: float, entropy_weight: float) -> int:
        strategy = MCTS(exploration=exploration, entropy_weight=entropy_weight)
        return node.children.index(strategy._selected(node))  # pyright: ignore[reportPrivateUsage]

    assert place(2.0, 0.1) == 1
    assert place(0.0, 0.1) == 0
    # Without the entropy 0.8 and 0.82; a weaker exploration then tips it, and entropy tips it back.
    assert place(1.8, 0.0) == 0
    assert place(1.8, 0.1) == 1


def test_without_exploration_the_best_leaf_is_expanded() -> None:
    """Values of deeper texts replace those of their ancestors, as the maximum does."""
    values = {"a": 5.0, "b": 4.0, "aa": 1.0, "ab": 2.0, "ba": 4.5, "bb": 3.0, "baa": 0.5}

    def of(h: Hypothesis) -> float:
        return values.get(h.response, 0.0) * h.n_tokens

    strategy = MCTS(iterations=4, successors=2, chunk_tokens=1, exploration=0.0)
    found = expanded(strategy, of)
    # a looks best until its children are seen, then b, then ba, whose children are bad: bb.
    assert found[:4] == ["", "a", "b", "ba"]
    assert found[4] == "bb"
    trace = drive(strategy, letters, of)
    assert trace.committed[0] == "b", "the most visited chunk"
    greedy = drive(strategy.model_copy(update={"iterations": 1}), letters, of)
    assert greedy.committed[0] == "a", "control"


def test_values_are_per_token_and_backed_up_as_the_maximum() -> None:
    root = Node(hypothesis=ROOT, visits=0)
    strategy = MCTS(successors=2, chunk_tokens=1, exploration=0.0)

    def iterate(of: Any) -> None:
        search = strategy._iterate(root)  # pyright: ignore[reportPrivateUsage]
        answer: Any = None
        while True:
            try:
                ask: Any = search.send(answer)
            except StopIteration:
                return
            answer = [of(h) for h in ask.hypotheses] if isinstance(ask, Score) else letters(ask)

    iterate(lambda h: 3.0 if h.response == "a" else 1.0)
    assert (root.visits, root.value) == (1, 3.0)
    assert root.entropy == pytest.approx(1.5 * math.log(2)), "mean of log 2 and 2 log 2"
    iterate(lambda h: 1.0 if h.response == "aa" else -4.0)
    a, b = root.children
    assert [n.value for n in a.children] == [0.5, -2.0]
    assert (a.visits, a.value, b.visits, b.value) == (2, 0.5, 1, 1.0)
    assert (root.visits, root.value) == (2, 1.0)
    assert [n.prior for n in root.children] == pytest.approx([2 / 3, 1 / 3])


def test_much_exploration_visits_by_the_priors() -> None:
    class Looking(MCTS):
        def search(self, root: Hypothesis) -> Search:
            node = Node(hypothesis=root, visits=0)
            for _ in range(61):
                yield from self._iterate(node)
            visits.extend(child.visits for child in node.children)
            return node.hypothesis

    visits: list[int] = []
    drive(
        Looking(successors=2, chunk_tokens=1, exploration=1e6),
        lambda ask: letters(ask, 20),
        lambda h: float(h.response.startswith("b")),
    )
    # prior / (1 + visits) is level in the end: 2 / 3 and 1 / 3 of 60 visits and 2 evaluations.
    assert visits == [pytest.approx(42, abs=1), pytest.approx(20, abs=1)]


def test_the_prompt_counts_no_visit_of_its_own() -> None:
    """After one iteration sqrt(visits) is 1, and b's bonus is 1 less than a's."""

    def second(lead: float) -> str:
        strategy = MCTS(
            iterations=2, successors=2, chunk_tokens=1, exploration=6.0, entropy_weight=0.0
        )
        return expanded(strategy, lambda h: lead * (h.response == "b"))[1]

    assert (second(0.99), second(1.01)) == ("a", "b")


def test_looking_ahead_leaves_a_trap() -> None:
    def of(h: Hypothesis) -> float:
        good = h.response.startswith("b") and h.n_tokens > 1
        return h.n_tokens * (2.0 if good else 1.0 if h.response == "a" else 0.0)

    wide = MCTS(iterations=8, successors=2, chunk_tokens=1, exploration=0.5)
    assert drive(wide, letters, of).answer.response[0] == "b"
    greedy = MCTS(iterations=1, successors=2, chunk_tokens=1, exploration=0.5)
    assert drive(greedy, letters, of).answer.response[0] == "a", "control"


def test_one_iteration_is_chunk_beam_of_width_one() -> None:
    def of(h: Hypothesis) -> float:
        return random.Random(h.response).random()

    mcts = drive(MCTS(iterations=1, successors=4, chunk_tokens=1), letters, of)
    beam = drive(ChunkBeamSearch(width=1, successors=4, chunk_tokens=1), letters, of)
    assert mcts.answer.response == beam.answer.response
    assert mcts.committed == beam.committed
    assert len(mcts.expansions) == len(beam.expansions) == 4


@pytest.mark.parametrize("seed", range(5))
def test_no_node_is_expanded_twice_and_the_budget_holds(seed: int) -> None:
    def of(h: Hypothesis) -> float:
        return random.Random(f"{seed}/{h.response}").random() * h.n_tokens

    strategy = MCTS(iterations=5, successors=3, chunk_tokens=1, exploration=0.3)
    trace = drive(strategy, lambda ask: letters(ask, 6), of)
    nodes = [h for a in trace.expansions for h in a.hypotheses]
    assert len(nodes) == len(set(nodes)) <= 5 * 6
    assert not any(h.finished for h in nodes)
    assert trace.answer.finished
    assert trace.committed == [trace.answer.response[:n] for n in range(1, 7)]


def test_priors_and_entropy_of_what_is_known() -> None:
    a = ROOT.extend("a", (1, 2), logprobs=(math.log(0.5), math.log(0.125)))
    b = ROOT.extend("b", (1,), logprobs=(math.log(0.25),), finish_reason="eos")
    assert priors(ROOT, [a, b]) == pytest.approx([0.5, 0.5]), "the geometric mean of a is 0.25, too"
    assert mean_surprise(ROOT, [a, b]) == pytest.approx(1.5 * math.log(2))
    longer = a.extend("c", (3,), logprobs=(-7.0,))  # as chunks longer than a slice are
    assert chunk_logprobs(ROOT, longer) == [math.log(0.5), math.log(0.125), -7.0]
    assert chunk_logprobs(a, longer) == [-7.0]
    unknown = ROOT.extend("d", (4,))
    assert priors(ROOT, [a, unknown]) == [0.5, 0.5]
    assert priors(ROOT, [unknown, unknown, b]) == [1 / 3] * 3
    assert mean_surprise(ROOT, [unknown]) == 0.0
    # A stop string may begin before the parent, so that the child does not continue it.
    stopped = ROOT.extend("s", finish_reason="stop")
    assert chunk_logprobs(a, stopped) is None


def test_what_is_not_chosen_is_freed() -> None:
    alive: list[weakref.ref[Hypothesis]] = []
    strategy = MCTS(iterations=3, successors=3, chunk_tokens=1)
    search = strategy.search(Hypothesis.root(""))
    answer: object = None
    most = 0
    try:
        while True:
            ask: Any = search.send(answer)
            if isinstance(ask, Expand):
                most = max(most, sum(ref() is not None for ref in alive))
                answer = letters(ask, 40)
                alive += [weakref.ref(c) for c in answer]
            elif isinstance(ask, Score):
                answer = [float(h.n_tokens) for h in ask.hypotheses]
            else:
                answer = None
            del ask
    except StopIteration:
        pass
    assert len(alive) > 150
    assert most < 0.75 * len(alive)
    assert most <= 40 + 3 * 3 * 4


def test_infinite_scores_end_too() -> None:
    strategy = MCTS(iterations=3, successors=2, chunk_tokens=1)
    for value in (-math.inf, math.inf):
        found = drive(strategy, letters, functools.partial(lambda v, h: v, value))
        assert found.answer.finished


WRONG = [
    {"iterations": 0},
    {"successors": 0},
    {"exploration": -1.0},
    {"entropy_weight": math.inf},
    {"chunk_tokens": None},
    {"depth": 3},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_wrong_fields_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_strategy({"type": "mcts", **wrong})


def test_it_is_its_own_config() -> None:
    strategy = MCTS(iterations=2, successors=3, exploration=1, entropy_weight=0, distinct=True)
    assert build_strategy(strategy.model_dump()) == strategy
    assert strategy.needs == {"distinct"}
    assert MCTS().needs == frozenset()
    assert MCTS().kl_bound(3) is None


def test_on_models(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> None:
    make = functools.partial(W2SLLM, proposer=proposer, scorer=scorer, max_tokens=12, seed=3)
    options: dict[str, Any] = {"successors": 3, "chunk_tokens": 3}
    found = {
        iterations: make(strategy=MCTS(iterations=iterations, **options)).batch(PROMPTS[:6])
        for iterations in (1, 6)
    }
    assert found[1] != found[6]
    own = MCTS(iterations=6, distinct=True, **options)
    assert make(strategy=own).batch(PROMPTS[:6]) != found[6], "children of other first tokens"


def test_models_report_every_token_of_a_chunk(
    proposer: HuggingFaceProposer, scorer: LogRatioScorer
) -> None:
    class Reading(SearchStrategy):
        type: str = "reading"  # pyright: ignore[reportIncompatibleVariableOverride]

        def search(self, root: Hypothesis) -> Search:
            children = yield from expand([root], 4, 20)  # more tokens than a slice has
            for child in children:
                known = chunk_logprobs(root, child)
                assert known is not None
                assert len(known) == child.n_tokens + child.ended
                lengths.append(len(known))
            return children[0]

    lengths: list[int] = []
    W2SLLM(proposer=proposer, scorer=scorer, strategy=Reading(), max_tokens=20).invoke("The film")
    assert max(lengths) > 16
