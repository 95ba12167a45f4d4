"""The engine: identities between strategies, batching, isolation, events, cancelling."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from tests.helpers import tiny
from w2s_chains import (
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    GuidePair,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    Sampling,
    SamplingParams,
)
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.core.events import Committed, Failed, Finished, Progressed, Scored
from w2s_chains.engine.search_state import may_begin_stop
from w2s_chains.errors import CancelledError, ProposerError, ScorerError, StrategyError
from w2s_chains.search.base import SearchStrategy, commit, expand

PROMPTS = ["The movie", "A boring film; the", "電影很好看 😀 and", "def main():\n    return", "x"]
BEAM = ChunkBeamSearch(width=2, successors=3, chunk_tokens=4)


def job(proposer, scorer, strategy: SearchStrategy = BEAM, prompt="The movie", seed=0, **sampling):
    return Job(
        root=Hypothesis.root(prompt),
        strategy=strategy,
        proposer=proposer,
        scorer=scorer,
        guides=getattr(scorer, "pair", None),
        sampling=SamplingParams(**{"max_tokens": 24, **sampling}),
        seed=seed,
    )


def run(*jobs, engine=None, **kwargs):
    running = (engine or Engine()).submit(list(jobs), **kwargs)
    return [one.future.result(timeout=60) for one in running]


def answers(*jobs, **kwargs):
    return [
        (a.text, a.finish_reason, pytest.approx(a.score, abs=1e-4)) for a in run(*jobs, **kwargs)
    ]


@pytest.fixture(params=["same-vocabulary", "other-vocabulary"])
def any_scorer(request, pair, foreign_pair) -> LogRatioScorer:
    return LogRatioScorer(pair if request.param == "same-vocabulary" else foreign_pair)


@pytest.mark.parametrize("seed", range(3))
def test_best_of_n_is_chunk_beam_with_one_endless_chunk(proposer, any_scorer, seed):
    beam = ChunkBeamSearch(width=1, successors=6, chunk_tokens=None)
    one = answers(job(proposer, any_scorer, BestOfN(n=6), seed=seed))
    assert one == answers(job(proposer, any_scorer, beam, seed=seed))
    assert one != answers(job(proposer, any_scorer, beam, seed=seed + 10))


@pytest.mark.parametrize("chunk", [1, 3, 16, 17, None])
def test_sampling_is_chunk_beam_of_one(proposer, any_scorer, chunk):
    beam = ChunkBeamSearch(width=1, successors=1, chunk_tokens=chunk)
    sampling = answers(job(proposer, any_scorer, Sampling(), max_tokens=40))
    assert sampling == answers(job(proposer, any_scorer, beam, max_tokens=40))
    assert sampling == answers(job(proposer, any_scorer, BestOfN(n=1), max_tokens=40))


def test_steering_by_nothing_is_no_steering(proposer, scorer):
    plain = answers(job(proposer, scorer, Sampling()))
    assert plain == answers(job(proposer, scorer, EmulatedFineTuning(beta=0.0)))
    assert answers(job(proposer, scorer, BEAM)) == answers(
        job(proposer, scorer, BEAM.model_copy(update={"steering": 0.0}))
    )
    equal = LogRatioScorer(GuidePair(scorer.pair.tuned, scorer.pair.tuned))
    steered = run(job(proposer, equal, EmulatedFineTuning(beta=3.0)))[0]
    assert steered.text == plain[0][0]
    assert plain != answers(job(proposer, scorer, EmulatedFineTuning(beta=3.0)))


def test_two_copies_of_one_guide_score_exactly_zero(proposer, pair, foreign_pair):
    for guides in (pair, foreign_pair):
        equal = LogRatioScorer(GuidePair(guides.tuned, guides.tuned))
        assert [a.score for a in run(job(proposer, equal), job(proposer, equal, BestOfN(n=4)))] == [
            0,
            0,
        ]
        assert run(job(proposer, LogRatioScorer(guides)))[0].score != 0


def test_swapping_the_guides_turns_the_sign(proposer, scorer):
    swapped = LogRatioScorer(scorer.pair.swapped())
    texts = ([" was great"] * 2, [" 😀", ""], [True, False])
    there = scorer.score_texts(["The movie"] * 2, texts[1], texts[2])
    assert swapped.score_texts(["The movie"] * 2, texts[1], texts[2]) == [-v for v in there]
    good, bad = run(job(proposer, scorer), job(proposer, swapped))
    assert good.text != bad.text


def test_a_batch_equals_its_singles_in_any_order(any_scorer):
    def fresh(budget=32_768):
        return HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), token_budget=budget)

    jobs = [(p, seed) for seed, p in enumerate(PROMPTS)]
    singles = [answers(job(fresh(), any_scorer, prompt=p, seed=s))[0] for p, s in jobs]
    assert len({text for text, *_ in singles}) == len(jobs)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
        for budget, live in ((32_768, 64), (100, 64), (32_768, 2)):
            proposer = fresh(budget)
            batch = [job(proposer, any_scorer, prompt=jobs[i][0], seed=jobs[i][1]) for i in order]
            assert answers(*batch, engine=Engine(max_live=live)) == [singles[i] for i in order]


def test_strategies_mix_in_one_run(proposer, scorer):
    strategies = [BEAM, BestOfN(n=5), Sampling(), EmulatedFineTuning(beta=1.0),
                  ChunkBeamSearch(width=2, successors=2, chunk_tokens=3, steering=0.5)]  # fmt: skip
    alone = [answers(job(proposer, scorer, s))[0] for s in strategies]
    assert answers(*[job(proposer, scorer, s) for s in strategies]) == alone


def test_many_prompts_share_model_calls(scorer):
    def calls(at_once: bool) -> int:
        proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
        jobs = [job(proposer, scorer, prompt=p, max_tokens=12) for p in PROMPTS]
        if at_once:
            run(*jobs)
        else:
            for one in jobs:
                run(one)
        return proposer.lm.counters.forwards

    assert calls(at_once=True) * 3 < calls(at_once=False)


def test_threads_are_coalesced(scorer):
    proposer = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer())
    engine = Engine()
    alone = [run(job(proposer, scorer, prompt=p, seed=i))[0].text for i, p in enumerate(PROMPTS)]
    spent = proposer.lm.counters.forwards
    got: dict[int, str] = {}

    def call(i):
        got[i] = run(job(proposer, scorer, prompt=PROMPTS[i], seed=i), engine=engine)[0].text

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[i] for i in range(len(PROMPTS))] == alone
    assert proposer.lm.counters.forwards - spent < spent


@pytest.mark.parametrize("strategy", [BEAM, BestOfN(n=3), Sampling(), EmulatedFineTuning(beta=1.0)])
@pytest.mark.parametrize("stop", [(), (" ",), ("e", "\n"), ("the", "th")])
def test_committed_pieces_join_to_the_answer(proposer, scorer, strategy, stop):
    for seed in range(3):
        events = []
        [answer] = run(
            job(proposer, scorer, strategy, seed=seed, stop=stop), on_event=events.append
        )
        assert isinstance(events[-1], Finished)
        assert "".join(e.text for e in events if isinstance(e, Committed)) == answer.text
        assert not any(s in answer.text for s in stop)


def test_events_tell_what_was_scored(proposer, scorer):
    events = []
    [answer] = run(job(proposer, scorer), on_event=events.append)
    scored = [e for e in events if isinstance(e, Scored)]
    assert len(scored) == 6
    assert all(len(e.texts) == len(e.scores) for e in scored)
    last = dict(zip(scored[-1].texts, scored[-1].scores, strict=True))
    assert last[answer.text] == max(scored[-1].scores) == answer.score


def test_progress_adds_up_to_max_tokens(proposer, scorer):
    for strategy in (BEAM, BestOfN(n=3), Sampling()):
        for stop in ((), ("e",)):
            events = []
            run(job(proposer, scorer, strategy, stop=stop), on_event=events.append)
            assert sum(e.tokens for e in events if isinstance(e, Progressed)) == 24
    assert len([e for e in events if isinstance(e, Progressed)]) >= 1


def test_what_may_begin_a_stop_string_is_held_back():
    assert may_begin_stop("ab\n", ("\n\n",)) == 1
    assert may_begin_stop("ab\n\n", ("\n\n",)) == 1
    assert may_begin_stop("a EN", ("END", "N!")) == 2
    assert may_begin_stop("ab", ("x",)) == 0
    assert may_begin_stop("", ("x",)) == 0


def test_usage_counts_every_token(proposer, scorer):
    [answer] = run(job(proposer, scorer, BestOfN(n=4), max_tokens=10))
    prompt = len(proposer.tokenizer.prompt_ids(Hypothesis.root("The movie").prompt))
    assert answer.prompt_tokens == prompt
    assert answer.completion_tokens == 10
    assert answer.proposed_tokens == 40
    read = sum(g.lm.counters.tokens_read for g in (scorer.pair.tuned, scorer.pair.untuned))
    assert answer.read_tokens == 1 + 4 * 9, "the last prompt token is read for all siblings at once"
    assert answer.guide_tokens == read == 2 * (prompt + 4 * 9)


class Fails:
    """Wraps a proposer or scorer, and breaks on hypotheses of one prompt."""

    def __init__(self, inner, prompt, how):
        self.inner, self.prompt, self.how = inner, prompt, how

    def propose(self, requests):
        mine = [r.hypotheses[0].prompt.text == self.prompt for r in requests]
        if any(mine) and self.how == "raise":
            raise RuntimeError("out of luck")
        children = self.inner.propose(requests)
        return [c[:-1] if own else c for own, c in zip(mine, children, strict=True)]

    def score(self, hypotheses):
        scores = self.inner.score(hypotheses)
        mine = [h.prompt.text == self.prompt for h in hypotheses]
        if any(mine) and self.how == "raise":
            raise RuntimeError("out of luck")
        if any(mine) and self.how == "count":
            return scores[:-1]
        if self.how == "nan":
            return [float("nan") if own else s for own, s in zip(mine, scores, strict=True)]
        return scores


@pytest.mark.parametrize("how", ["raise", "count", "nan"])
@pytest.mark.parametrize("part", ["proposer", "scorer"])
def test_a_failure_harms_only_its_own_prompt(proposer, scorer, part, how):
    if (part, how) == ("proposer", "nan"):
        return
    healthy = [answers(job(proposer, scorer, prompt=p))[0] for p in PROMPTS]
    bad = Fails(proposer if part == "proposer" else scorer, PROMPTS[1], how)
    parts = (bad, scorer) if part == "proposer" else (proposer, bad)
    events = []
    running = Engine().submit([job(*parts, prompt=p) for p in PROMPTS], events.append)
    for i, one in enumerate(running):
        if i == 1:
            kind = {"raise": RuntimeError, "nan": ScorerError}.get(
                how, ProposerError if part == "proposer" else ScorerError
            )
            with pytest.raises(kind):
                one.future.result(timeout=60)
        else:
            answer = one.future.result(timeout=60)
            assert (answer.text, answer.finish_reason, answer.score) == healthy[i]
    assert sum(isinstance(e, Failed) for e in events) == 1


def test_cancelling_stops_one_search_and_frees_its_memory(proposer, scorer):
    engine = Engine()
    gc.collect()
    before = sum(type(o) is Segment for o in gc.get_objects())
    long = ChunkBeamSearch(width=2, successors=2, chunk_tokens=1)
    jobs = [
        job(proposer, scorer, long, prompt=p, max_tokens=400, repetition_penalty=1.3)
        for p in PROMPTS
    ]
    started = threading.Event()
    running = engine.submit(jobs, lambda event: started.set())
    del jobs
    assert started.wait(30)
    for one in running[1:]:
        one.cancel()
    for one in running[1:]:
        with pytest.raises(CancelledError):
            one.future.result(timeout=30)
    assert not running[0].future.done()
    running[0].cancel()
    with pytest.raises(CancelledError):
        running[0].future.result(timeout=30)
    del running, one
    deadline = time.monotonic() + 10
    while engine._thread is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine._thread is None, "the thread lives only while there is work"
    gc.collect()
    assert sum(type(o) is Segment for o in gc.get_objects()) <= before


class Greedy(SearchStrategy):
    """Commits one child and returns another."""

    type: str = "liar"

    def search(self, root):
        one, two = yield from expand([root], 2, 3)
        yield from commit(one)
        return two


class Silent(SearchStrategy):
    type: str = "silent"

    def search(self, root):
        yield from expand([root], 1, 3)


class Broken(SearchStrategy):
    type: str = "broken"

    def search(self, root):
        raise ZeroDivisionError("my own fault")
        yield


class Plain(SearchStrategy):
    type: str = "plain"

    def search(self, root):
        return root


class Eager(SearchStrategy):
    type: str = "eager"

    def search(self, root):
        raise ZeroDivisionError("before the first yield")


class Odd(SearchStrategy):
    type: str = "odd"

    def search(self, root):
        yield "what?"
        return root


@pytest.mark.parametrize(
    ("strategy", "error"),
    [
        (Greedy(), StrategyError),
        (Silent(), StrategyError),
        (Broken(), ZeroDivisionError),
        (Plain(), StrategyError),
        (Eager(), ZeroDivisionError),
        (Odd(), StrategyError),
    ],
)
def test_a_strategy_that_breaks_its_contract_fails_alone(proposer, scorer, strategy, error):
    engine = Engine()
    bad, good = engine.submit([job(proposer, scorer, strategy), job(proposer, scorer)])
    with pytest.raises(error):
        bad.future.result(timeout=60)
    assert good.future.result(timeout=60).text


def test_a_listener_that_fails_stops_nothing(proposer, scorer):
    def listen(event):
        raise ValueError("not my day")

    assert run(job(proposer, scorer), on_event=listen)[0].text


def test_stateless_scorers_are_asked_once_for_each_text(proposer):
    asked = []

    class Letters:
        def score(self, hypotheses):
            asked.extend(hypotheses)
            return [float(h.response.count("e")) for h in hypotheses]

    run(job(proposer, Letters()))
    assert len(asked) == len(set(asked))
