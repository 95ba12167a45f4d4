"""Searches driven by hand: no model, every child and every score is written down or drawn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s_chains import (
    CARDS,
    DVTS,
    MCTS,
    AdaptiveBestOfN,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Hypothesis,
    Nudging,
    ParticleFilter,
    Sampling,
    SearchStrategy,
    SpeculativeRejection,
    TokenSearch,
)
from w2s_chains.core.asks import Commit, Expand, Score, Until
from w2s_chains.core.sampling import MOST_BRANCHES
from w2s_chains.errors import ConfigError
from w2s_chains.search import STRATEGIES, build_strategy, expand
from w2s_chains.search.base import distinct, top
from w2s_chains.testing import drive


def toy_proposer(seed=0, alphabet="abc", end=0.15, limit=12):
    """Text of one letter per token; deterministic in (text so far, which child)."""

    def propose(ask: Expand):
        children = []
        for h in ask.hypotheses:
            for index in range(ask.successors):
                rng = random.Random(f"{seed}/{h.response}/{index}")
                text, reason = "", None
                while reason is None and (ask.chunk_tokens is None or len(text) < ask.chunk_tokens):
                    if rng.random() < end:
                        reason = "eos"
                    else:
                        text += rng.choice(alphabet)
                        if len(h.response) + len(text) == limit:
                            reason = "length"
                children.append(h.extend(text, tuple(map(ord, text)), finish_reason=reason))
        return children

    return propose


def toy_value(h: Hypothesis) -> float:
    return random.Random(f"v/{h.response}/{h.ended}").uniform(-1, 1)


def test_first_step_draws_width_times_successors_from_the_root():
    trace = drive(ChunkBeamSearch(width=3, successors=5, chunk_tokens=2), toy_proposer(), toy_value)
    first, *later = trace.expansions
    assert (first.successors, len(first.hypotheses), first.chunk_tokens) == (15, 1, 2)
    assert all(ask.successors == 5 and len(ask.hypotheses) <= 3 for ask in later)


def test_finished_hypotheses_are_carried_once_and_never_expanded():
    def propose(ask):
        if ask.successors == 4:
            root = ask.hypotheses[0]
            done = root.extend("done", (1,), finish_reason="eos")
            return [done, *(root.extend(letter, (2,)) for letter in "abc")]
        return [
            h.extend(f"{i}", (5,), finish_reason="eos" if len(h.response) > 3 else None)
            for h in ask.hypotheses
            for i in range(ask.successors)
        ]

    def value(h):
        return 10.0 if h.response == "done" else len(h.response) + ord(h.response[0]) / 200

    trace = drive(ChunkBeamSearch(width=2, successors=2), propose, value)
    assert trace.answer.response == "done"
    for ask in trace.expansions:
        assert not any(h.finished for h in ask.hypotheses)
    for ask in trace.asks:
        if isinstance(ask, Score):
            assert sum(h.response == "done" for h in ask.hypotheses) == 1
            assert len({h.identity for h in ask.hypotheses}) == len(ask.hypotheses)


def test_identical_texts_count_once_and_the_first_stays():
    root = Hypothesis.root("")
    twins = [root.extend("a", (1,)), root.extend("b", (2,)), root.extend("a", (3,))]
    assert distinct(twins) == twins[:2]
    # The same text with other waiting bytes, or with another ending, goes on differently.
    others = [root.extend("a", (1, 9), pending=(9,)), root.extend("a", (1,), finish_reason="eos")]
    assert distinct(twins + others) == twins[:2] + others


def test_ties_keep_their_order():
    root = Hypothesis.root("")
    children = [root.extend(letter) for letter in "abcdef"]
    assert [h.text for h in top(children, [1.0, 2.0, 2.0, 1.0, 2.0, 0.0], 4)] == list("bcea")
    trace = drive(
        ChunkBeamSearch(width=2, successors=2, chunk_tokens=1), toy_proposer(), lambda h: 0.0
    )
    again = drive(
        ChunkBeamSearch(width=2, successors=2, chunk_tokens=1), toy_proposer(), lambda h: 0.0
    )
    assert trace.answer.response == again.answer.response


def test_the_best_finished_answer_may_have_left_the_beam():
    """Whatever goes on scores higher for a while, then everything ends badly."""

    def propose(ask):
        children = []
        for h in ask.hypotheses:
            for i in range(ask.successors):
                depth = len(h.response)
                ended = (depth == 0 and i == 0) or depth == 2
                children.append(h.extend(str(i), (i,), finish_reason="eos" if ended else None))
        return children

    def value(h):
        return {1: 5.0 if h.finished else 6.0 + int(h.text)}.get(len(h.response), -len(h.response))

    beam = drive(ChunkBeamSearch(width=1, successors=3), propose, value)
    finished = drive(ChunkBeamSearch(width=1, successors=3, return_best="finished"), propose, value)
    assert len(beam.answer.response) == 3
    assert finished.answer.response == "0"
    assert [len(a.hypotheses) for a in beam.expansions] == [
        len(a.hypotheses) for a in finished.expansions
    ]
    assert all(finished.answer.response.startswith(text) for text in finished.committed)


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 4),
    successors=st.integers(1, 4),
    chunk=st.one_of(st.none(), st.integers(1, 5)),
    best=st.sampled_from(["beam", "finished"]),
    after=st.one_of(st.none(), st.integers(0, 3)),
    seed=st.integers(0, 10_000),
)
def test_any_search_ends_well(width, successors, chunk, best, after, seed):
    strategy = ChunkBeamSearch(
        width=width,
        successors=successors,
        chunk_tokens=chunk,
        return_best=best,
        commit_after=after if chunk else None,
    )
    trace = drive(strategy, toy_proposer(seed), toy_value)
    assert trace.answer.finished
    assert all(trace.answer.response.startswith(text) for text in trace.committed)
    assert trace.committed == sorted(trace.committed, key=len)
    scored = [h for ask in trace.asks if isinstance(ask, Score) for h in ask.hypotheses]
    ended = [toy_value(h) for h in scored if h.finished]
    if best == "finished" and strategy.commit_after is None:
        assert toy_value(trace.answer) == max(ended)


@settings(max_examples=80, deadline=None)
@given(after=st.integers(0, 3), seed=st.integers(0, 10_000), chunk=st.integers(1, 3))
def test_commit_after_bounds_how_far_text_lags_behind(after, seed, chunk):
    beam = ChunkBeamSearch(width=3, successors=3, chunk_tokens=chunk, commit_after=after)
    trace = drive(beam, toy_proposer(seed, end=0.0, limit=12), toy_value)
    assert len(trace.committed) == len(trace.expansions), "a commit ends each round"
    lags = [rounds * chunk - len(text) for rounds, text in enumerate(trace.committed, 1)]
    assert max(lags) <= after * chunk
    assert all(trace.answer.response.startswith(text) for text in trace.committed)


def test_commit_after_far_away_changes_nothing_and_near_it_does():
    def answers(after: int | None) -> list[str]:
        beam = ChunkBeamSearch(width=3, successors=2, chunk_tokens=1, commit_after=after)
        return [
            drive(beam, toy_proposer(seed, end=0.05), toy_value).answer.response
            for seed in range(40)
        ]

    assert answers(12) == answers(None)
    assert answers(0) != answers(None), "control"


def test_with_commit_after_0_only_the_best_goes_on():
    beam = ChunkBeamSearch(width=3, successors=2, chunk_tokens=2, commit_after=0)
    first, *later = drive(beam, toy_proposer(1, end=0.0), toy_value).expansions
    assert (first.successors, {len(ask.hypotheses) for ask in later}) == (6, {1})


def test_commit_after_needs_chunks():
    with pytest.raises(ConfigError, match="commit_after=2 counts chunks, but with chunk_tokens"):
        ChunkBeamSearch(chunk_tokens=None, commit_after=2)


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_best_of_n_is_chunk_beam_with_one_endless_chunk(n, seed):
    one = drive(BestOfN(n=n), toy_proposer(seed), toy_value)
    beam = ChunkBeamSearch(width=1, successors=n, chunk_tokens=None)
    other = drive(beam, toy_proposer(seed), toy_value)
    assert one.answer.identity == other.answer.identity
    assert [(a.successors, a.chunk_tokens) for a in one.expansions] == [(n, None)]


def test_the_control_other_children_give_other_answers():
    texts = {
        drive(BestOfN(n=4), toy_proposer(seed), toy_value).answer.response for seed in range(9)
    }
    assert len(texts) > 5


def test_sampling_asks_for_no_scores_and_commits_as_it_goes():
    trace = drive(Sampling(), toy_proposer(end=0.01, limit=50), toy_value)
    assert not any(isinstance(ask, Score) for ask in trace.asks)
    assert sum(isinstance(ask, Commit) for ask in trace.asks) == len(trace.expansions) > 2
    assert trace.committed[-1] == trace.answer.response
    steered = drive(EmulatedFineTuning(beta=0.5), toy_proposer(), toy_value)
    assert {ask.steering for ask in steered.expansions} == {0.5}
    assert {ask.steering for ask in trace.expansions} == {0.0}


def test_only_strategies_that_do_not_select_take_whole_answers_for_chunks():
    """A server then gives a whole answer in one request."""
    for strategy in (Sampling(), EmulatedFineTuning()):
        sampled = drive(strategy, toy_proposer(), toy_value)
        assert all(ask.may_be_whole is True for ask in sampled.expansions)
    beam = drive(ChunkBeamSearch(), toy_proposer(), toy_value)
    assert not any(ask.may_be_whole for ask in beam.expansions), "control"


def test_the_first_of_equally_good_finished_answers_is_returned():
    """The second one comes a step later, and the first has then left the beam."""

    def propose(ask):
        [h] = ask.hypotheses
        if h.parent is None:
            return [
                h.extend("first", (1,), finish_reason="eos"),
                *(h.extend(letter, (2,)) for letter in "abc"),
            ]
        return [h.extend("later", (3,), finish_reason="eos") for _ in range(ask.successors)]

    def value(h):
        return {"first": 1.0, "a": 2.0, "alater": 1.0}.get(h.response, 0.0)

    search = ChunkBeamSearch(width=1, successors=4, return_best="finished")
    assert drive(search, propose, value).answer.response == "first"
    better = drive(search, propose, lambda h: value(h) + 0.5 * (h.response == "alater"))
    assert better.answer.response == "alater", "control"


def test_steering_is_a_property_of_every_expansion():
    for strategy in (ChunkBeamSearch(steering=0.5), BestOfN(steering=0.5)):
        trace = drive(strategy, toy_proposer(), toy_value)
        assert {ask.steering for ask in trace.expansions} == {0.5}
        assert strategy.token_steering == 0.5


def test_rejected_branches_are_dropped_before_the_next_step():
    import weakref

    alive: list[weakref.ref] = []
    counts = []
    make = toy_proposer(end=0.0, limit=40)

    def propose(ask):
        counts.append(sum(ref() is not None for ref in alive))
        children = make(ask)
        alive.extend(weakref.ref(c) for c in children)
        return children

    search = ChunkBeamSearch(width=2, successors=4, chunk_tokens=2).search(Hypothesis.root(""))
    answer = None
    try:
        while True:
            ask = search.send(answer)
            if isinstance(ask, Expand):
                answer = propose(ask)
            else:
                answer = [toy_value(h) for h in ask.hypotheses] if isinstance(ask, Score) else None
            del ask
    except StopIteration:
        pass
    assert max(counts) <= 2 * len(counts), "only the beam and its ancestors stay"
    assert len(alive) > 3 * max(counts)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ChunkBeamSearch(width=0), "width"),
        (lambda: ChunkBeamSearch(successors=0), "successors"),
        (lambda: ChunkBeamSearch(chunk_tokens=0), "chunk_tokens"),
        (lambda: BestOfN(n=0), "n"),
        (lambda: ChunkBeamSearch(steering=float("nan")), "steering"),
        (lambda: ChunkBeamSearch(widht=3), "widht"),  # pyright: ignore[reportCallIssue]
        (lambda: EmulatedFineTuning(beta=float("inf")), "beta"),
    ],
)
def test_wrong_settings_name_the_field(make, field):
    with pytest.raises(ConfigError, match=field):
        make()


NUMBERS = [
    (kind, name)
    for kind, strategy in STRATEGIES.items()
    for name, field in strategy.model_fields.items()
    if field.annotation is float
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_every_number_fits_into_float32(kind, name):
    assert len(NUMBERS) > 10
    for wrong in ("inf", "-inf", "nan", "1e39"):
        with pytest.raises(ConfigError, match=name):
            build_strategy({"type": kind, name: float(wrong)})


@pytest.mark.parametrize(
    "strategy",
    [
        ChunkBeamSearch(
            width=2, successors=3, chunk_tokens=None, steering=0.5, return_best="finished"
        ),
        BestOfN(n=7),
        Sampling(),
        EmulatedFineTuning(beta=2.0),
    ],
)
def test_a_strategy_is_its_own_config(strategy):
    assert build_strategy(strategy.model_dump()) == strategy
    with pytest.raises(ConfigError, match="a config never changes"):
        strategy.type = "other"


class Plain(SearchStrategy):
    """Says nothing of itself."""

    type: str = "plain"

    def search(self, root):
        yield Commit(hypothesis=root)
        return root


ABOUT = [
    (Plain(), (1, set(), 0.0, True, True)),
    (Sampling(), (1, set(), 0.0, False, False)),
    (EmulatedFineTuning(beta=0.5), (1, set(), 0.5, False, False)),
    (EmulatedFineTuning(draft_tokens=4), (1, {"drafts"}, 1.0, False, False)),
    (Nudging(), (1, {"until", "by_guide"}, 0.0, False, False)),
    (BestOfN(n=3, steering=0.5), (3, set(), 0.5, True, False)),
    (AdaptiveBestOfN(n=7, wave=3, steering=0.5), (3, set(), 0.5, True, False)),
    (SpeculativeRejection(n=6, steering=0.5), (6, set(), 0.5, True, True)),
    (ChunkBeamSearch(width=2, successors=3, steering=0.5), (6, set(), 0.5, True, True)),
    (ChunkBeamSearch(chunk_tokens=None), (16, set(), 0.0, True, False)),
    (DVTS(subtrees=2, successors=3, steering=0.5), (6, set(), 0.5, True, True)),
    (TokenSearch(candidates=3), (3, set(), 0.0, True, True)),
    (TokenSearch(candidates=3, distinct=True), (3, {"distinct"}, 0.0, True, True)),
    (CARDS(attempts=9, wave=2), (2, {"until"}, 0.0, True, True)),
    (MCTS(successors=3), (3, set(), 0.0, True, True)),
    (MCTS(successors=3, distinct=True), (3, {"distinct"}, 0.0, True, True)),
    (ParticleFilter(particles=3), (3, set(), 0.0, True, True)),
    (ParticleFilter(chunk_tokens=None), (8, set(), 0.0, True, False)),
]


@pytest.mark.parametrize(("strategy", "wanted"), ABOUT, ids=[repr(own) for own, _ in ABOUT])
def test_what_a_strategy_says_of_itself(strategy, wanted):
    """Whoever runs it relies on this before it begins."""
    said = (
        strategy.branches,
        strategy.needs,
        strategy.token_steering,
        strategy.needs_scorer,
        strategy.scores_partial,
    )
    assert said == wanted
    assert {type(own) for own, _ in ABOUT} == {Plain, *STRATEGIES.values()}


def test_only_some_bounds_are_known():
    assert Plain().kl_bound(1) is None
    assert TokenSearch(candidates=3, distinct=True).kl_bound(2) is None
    assert TokenSearch(candidates=3).kl_bound(2) == pytest.approx(2 * BestOfN(n=3).kl_bound(1))


def test_as_many_partial_answers_as_a_path_can_be_wide():
    assert ChunkBeamSearch(width=MOST_BRANCHES // 4, successors=4).branches == MOST_BRANCHES
    with pytest.raises(ConfigError, match="65,540 partial answers"):
        ChunkBeamSearch(width=MOST_BRANCHES // 4 + 1, successors=4)


def test_an_ask_says_what_the_search_said():
    root, until = Hypothesis.root(""), Until(entropy=1.0)
    names = ("hypotheses", "successors", "chunk_tokens", "steering", "may_be_whole", "first",
             "distinct", "until", "drafts")  # fmt: skip

    def asked(*args, **options):
        ask = next(expand([root], *args, **options))
        return [getattr(ask, name) for name in names]

    given = asked(3, 5, 0.5, True, first=2, distinct=True, until=until, drafts=True)
    assert given == [(root,), 3, 5, 0.5, True, 2, True, until, True]
    assert asked(3, None) == [(root,), 3, None, 0.0, False, 0, False, None, False]


def test_drafts_are_chunks_of_one_token_more():
    trace = drive(EmulatedFineTuning(beta=0.5, draft_tokens=3), toy_proposer(), toy_value)
    asked = {(a.successors, a.chunk_tokens, a.steering, a.drafts) for a in trace.expansions}
    assert asked == {(1, 4, 0.5, True)}
    assert trace.committed[-1] == trace.answer.response
    assert [h.response for a in trace.expansions[1:] for h in a.hypotheses] == trace.committed[:-1]
