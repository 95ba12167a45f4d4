"""What a search asks its proposer for, what it is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from w2s_chains import CallableScorer, Engine, Hypothesis, Job, SamplingParams, SearchStrategy
from w2s_chains.core.asks import Commit, Expand, Expands, RandomStream, Score, Until
from w2s_chains.core.events import Event, Finished, Progressed, Scored
from w2s_chains.core.parts import Proposer
from w2s_chains.engine.job import SearchHandle
from w2s_chains.errors import ConfigError, StrategyError

Steps = Callable[[Hypothesis], Generator[Any, Any, Any]]


class Scripted(SearchStrategy):
    """Runs a function as its search, and tells how many rounds an answer took."""

    type: str = "scripted"
    steps: Any

    def search(self, root: Hypothesis) -> Any:
        return self.steps(root)

    def kl_bound(self, rounds: int) -> float:
        return rounds


class Asked(Proposer):
    """Writes down what it is asked for; the last child of its first answer ends early."""

    def __init__(self, slice_tokens: int | None = None) -> None:
        self.slice_tokens = slice_tokens
        self.requests: list[Expand] = []

    def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
        self.requests += requests
        return [self.children(request) for request in requests]

    def children(self, request: Expand) -> list[Hypothesis]:
        count = request.chunk_tokens or 9
        made = [
            h.extend("abc"[i % 3] * count, n_tokens=count, finish_reason=None)
            for h in request.hypotheses
            for i in range(request.successors)
        ]
        if len(self.requests) == 1:
            parent = request.hypotheses[-1]
            made[-1] = parent.extend("end", n_tokens=1, finish_reason="eos")
        return made

    def check_steering(self, guides: object) -> None: ...


LENGTH = CallableScorer(lambda prompts, texts: [float(len(text)) for text in texts])


def run(steps: Steps, proposer: Any = None, on_event: Any = None, **options: Any) -> Finished:
    root = Hypothesis.root(options.pop("prompt", "p"))
    defaults: dict[str, Any] = {"sampling": SamplingParams(max_tokens=99), "scorer": LENGTH}
    job = Job(
        root=root,
        strategy=Scripted(steps=steps),
        proposer=proposer or Asked(),
        **{**defaults, **options},
    )
    [handle] = Engine().submit([job], on_event)
    return handle.future.result(timeout=20)


def done(h: Hypothesis) -> Hypothesis:
    return h.extend("", finish_reason="eos")


def test_a_long_chunk_is_asked_for_in_slices() -> None:
    found: list[Hypothesis] = []

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        found.extend((yield Expand(hypotheses=(root,), successors=3, chunk_tokens=7)))
        return done(found[0])

    proposer = Asked(slice_tokens=3)
    run(steps, proposer)
    assert [(h.response, h.finished) for h in found] == [
        ("aaaaaaa", False), ("bbbaaaa", False), ("end", True),
    ]  # fmt: skip
    asked = [(len(r.hypotheses), r.successors, r.chunk_tokens) for r in proposer.requests]
    assert asked == [(1, 3, 3), (2, 1, 3), (2, 1, 1)]
    whole = Asked()
    run(steps, whole)
    assert [r.chunk_tokens for r in whole.requests] == [7]
    exact = Asked(slice_tokens=7)
    run(steps, exact)
    assert [r.chunk_tokens for r in exact.requests] == [7]


def test_an_answer_without_a_chunk_length_goes_on_until_it_has_ended() -> None:
    class Ends(Asked):
        def children(self, request: Expand) -> list[Hypothesis]:
            reason: Any = "eos" if len(self.requests) == 3 else None
            return [h.extend("ab", n_tokens=2, finish_reason=reason) for h in request.hypotheses]

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        [answer] = yield Expand(hypotheses=(root,))
        return answer

    for slice_tokens in (2, None):
        proposer = Ends(slice_tokens)
        assert run(steps, proposer).text == "ababab"
        assert [r.chunk_tokens for r in proposer.requests] == [slice_tokens] * 3


def test_the_proposer_is_told_how_to_sample() -> None:
    guides: Any = object()
    constraint: Any = object()
    seen: list[bool] = []

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        yield Expand(hypotheses=(root,), chunk_tokens=1)
        yield Expand(hypotheses=(root,), chunk_tokens=1, steering=0.5)
        return done(root)

    class Polls(Asked):
        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            seen.append(requests[0].cancelled())
            return super().propose(requests)

    proposer, sampling = Polls(), SamplingParams(max_tokens=50, temperature=0.3)
    run(steps, proposer, guides=guides, constraint=constraint, sampling=sampling, seed=7)
    plain, steered = proposer.requests
    assert (plain.guides, steered.guides) == (None, guides)
    for request in (plain, steered):
        assert (request.sampling, request.seed, request.constraint) == (sampling, 7, constraint)
    assert seen == [False, False]


def test_a_request_tells_whether_its_search_was_cancelled() -> None:
    class Cancels(Asked):
        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            before = requests[0].cancelled()
            handle.cancel()
            told.append((before, requests[0].cancelled()))
            return super().propose(requests)

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        yield Expand(hypotheses=(root,), chunk_tokens=1)
        return done(root)

    told: list[tuple[bool, bool]] = []
    job = Job(root=Hypothesis.root("p"), strategy=Scripted(steps=steps), proposer=Cancels())
    handle = SearchHandle(job)
    Engine().start([handle])
    handle.future.exception(timeout=20)
    assert told == [(False, True)]


def test_random_numbers_belong_to_seed_and_prompt() -> None:
    drawn: list[Any] = []

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        assert (yield Commit(hypothesis=root)) is None
        numbers = yield RandomStream()
        drawn.append((numbers.random(), numbers.random()))
        return done(root)

    for options in ({}, {}, {"seed": 1}, {"prompt": "q"}):
        run(steps, **options)
    first, again, seed, prompt = drawn
    assert first == again
    assert len({first, seed, prompt}) == 3
    assert first[0] != first[1]


def test_the_rounds_of_an_answer_are_counted() -> None:
    kept: list[Hypothesis] = []

    def steps(which: int) -> Steps:
        def search(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
            kept[:] = [done(root)]
            for _ in range(3):
                [child] = yield Expand(hypotheses=(root,), chunk_tokens=1)
                kept.append(child)
            return kept[which]

        return search

    class Plain(Asked):
        def children(self, request: Expand) -> list[Hypothesis]:
            return [h.extend("a", n_tokens=1, finish_reason="eos") for h in request.hypotheses]

    assert [run(steps(i), Plain(2)).kl for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("steering", [(1.0, 0.0), (0.0, 1.0)])
def test_a_search_that_steers_anywhere_adds_its_drift(steering: tuple[float, float]) -> None:
    class Drifts(Asked):
        drift: float | None = 0.25

        def children(self, request: Expand) -> list[Hypothesis]:
            return [h.extend("a", n_tokens=1, drift=self.drift) for h in request.hypotheses]

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        [child] = yield Expand(hypotheses=(root,), chunk_tokens=1, steering=steering[0])
        [child] = yield Expand(hypotheses=(child,), chunk_tokens=1, steering=steering[1])
        rounds.append(child)
        return child

    rounds: list[Hypothesis] = []
    kl = run(steps, Drifts()).kl
    assert rounds[0].drift is not None
    assert kl == 2 + rounds[0].drift != 2
    filtered = SamplingParams(max_tokens=99, top_k=5)
    assert run(steps, Drifts(), sampling=filtered).kl is None
    for unknown in (None, float("inf")):
        silent = Drifts()
        silent.drift = unknown
        assert run(steps, silent).kl is None


def test_progress_is_told_only_where_there_is_some() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        for _ in range(2):
            [*_, child] = yield Expand(hypotheses=(root,), chunk_tokens=5, successors=2)
        return child

    events: list[Event] = []
    run(steps, on_event=events.append)
    assert [e.tokens for e in events if isinstance(e, Progressed)] == [5, 94]


ONE = Hypothesis.root("p")
DRAFTS = Expand(hypotheses=(ONE,), drafts=True, chunk_tokens=3, steering=1.0)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (Expand(hypotheses=()), "only hypotheses that can go on"),
        (Expand(hypotheses=(ONE, done(ONE))), "only hypotheses that can go on"),
        (Expand(hypotheses=(ONE,), successors=0), "0 successors of None"),
        (Expand(hypotheses=(ONE,), chunk_tokens=0), "1 successors of 0"),
        (Expand(hypotheses=(ONE,), first=-1), "from number -1 on"),
        (Expands(asks=()), "no children at all"),
        (Expand(hypotheses=(ONE,), drafts=True, chunk_tokens=3), "asked for drafts"),
        (Expand(hypotheses=(ONE,), drafts=True, steering=1.0), "asked for drafts"),
        (replace(DRAFTS, until=Until(word=True)), "asked for drafts"),
        (replace(DRAFTS, distinct=True), "asked for drafts"),
        (replace(DRAFTS, by_guide=True), "text of the tuned guide"),
        (Expand(hypotheses=(ONE,), steering=0.5, by_guide=True), "text of the tuned guide"),
    ],
)
def test_what_may_not_be_asked_for(ask: Expand | Expands, told: str) -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        yield ask
        return done(root)

    proposer = Asked()
    with pytest.raises(StrategyError, match=told):
        run(steps, proposer)
    assert not proposer.requests


def test_scores_need_a_scorer() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        yield Score(hypotheses=(root,))
        return done(root)

    with pytest.raises(ConfigError, match="asks for scores, but there is no scorer"):
        run(steps, scorer=None)


def test_only_a_hypothesis_is_an_answer() -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, str]:
        yield Commit(hypothesis=root)
        return "a text"

    with pytest.raises(StrategyError, match="returned 'a text'; it must return the Hypothesis"):
        run(steps)


def test_scores_are_told_and_remembered() -> None:
    asked: list[str] = []

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        asked.extend(texts)
        return [float(len(text)) for text in texts]

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        one, two = root.extend("a", n_tokens=1), root.extend("bb", n_tokens=2, finish_reason="stop")
        assert (yield Score(hypotheses=())) == []
        assert (yield Score(hypotheses=(two, one, two))) == [2.0, 1.0, 2.0]
        assert (yield Score(hypotheses=(one,))) == [1.0]
        return two

    events: list[Event] = []
    answer = run(steps, on_event=events.append, scorer=CallableScorer(score))
    assert asked == ["bb", "a"]
    scored = [(event.texts, event.scores) for event in events if isinstance(event, Scored)]
    assert scored == [((), ()), (("bb", "a", "bb"), (2.0, 1.0, 2.0)), (("a",), (1.0,))]
    assert (answer.text, answer.score, answer.finish_reason) == ("bb", 2.0, "stop")
    assert answer.completion_tokens == 2
    assert [e.tokens for e in events if isinstance(e, Progressed)] == [99]
    assert run(steps).score == 2.0, "nobody listens"


@pytest.mark.parametrize("steering", [0.0, 0.5, 1.0])
def test_what_is_steered_has_no_divergence_without_its_log_ratios(steering: float) -> None:
    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        plain = Expand(hypotheses=(root,), chunk_tokens=1)
        [[child], _] = yield Expands(asks=(plain, replace(plain, steering=steering)))
        [child] = yield replace(plain, hypotheses=(child,))
        return done(child)

    assert run(steps).kl == (None if steering else 0)


def test_an_answer_tells_what_it_has_cost() -> None:
    class Counts(Asked):
        flops_per_token: Any = 2.0

        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            usage = requests[0].hypotheses[0].usage
            usage.prompt_tokens, usage.read_tokens, usage.proposed_tokens = 5, 6, 13
            usage.add_guide(8, 10.0)
            return super().propose(requests)

    def steps(root: Hypothesis) -> Generator[Any, Any, Hypothesis]:
        [child] = yield Expand(hypotheses=(root,), chunk_tokens=4)
        return child

    found = run(steps, Counts())
    assert (found.prompt_tokens, found.read_tokens, found.proposed_tokens) == (5, 6, 13)
    assert (found.guide_tokens, found.guide_flops_ratio) == (8, 80 / (10 * 2))
    assert (found.rounds, found.completion_tokens, found.finish_reason) == (1, 1, "eos")
    assert run(steps).read_tokens is None, "a proposer that counts nothing"
