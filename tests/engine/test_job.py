"""What is checked before a search begins, and what its handle tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.helpers.remote_parts import Here
from w2s_chains import (
    BestOfN,
    ChunkBeamSearch,
    Constraint,
    EmulatedFineTuning,
    Hypothesis,
    Job,
    Nudging,
    Sampling,
    SamplingParams,
    SearchStrategy,
)
from w2s_chains.core.events import Event
from w2s_chains.core.prompts import Prompt
from w2s_chains.engine.job import SearchHandle, check_abilities
from w2s_chains.errors import ConfigError, ScorerError, W2SError

SAMPLING = SamplingParams(max_tokens=5)


class Checks(Here):
    """A proposer and scorer that writes down what it is to check."""

    abilities = frozenset({"until", "by_guide"})

    def __init__(self, partial: bool = True) -> None:
        self.partial = partial
        self.checked: list[Any] = []

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        self.checked.append((prompt.plain_text, sampling))

    def check_steering(self, guides: object) -> None:
        self.checked.append(guides)

    def check_writer(self, guides: object) -> None:
        self.checked.append(("writer", guides))

    def check_constraint(self, constraint: Constraint, sampling: SamplingParams) -> None:
        self.checked.append((constraint, sampling))

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [0.0 for _ in hypotheses]


def job(strategy: SearchStrategy, proposer: Any = None, **options: Any) -> Job:
    root = Hypothesis.root("x")
    proposer = proposer or Here()
    return Job(root=root, strategy=strategy, proposer=proposer, sampling=SAMPLING, **options)


def test_both_parts_check_the_prompt() -> None:
    proposer, scorer, guides = Checks(), Checks(), object()
    job(EmulatedFineTuning(beta=1.0), proposer, scorer=scorer, guides=guides).check()
    assert proposer.checked == [guides, ("x", SAMPLING)]
    assert scorer.checked == [("x", SAMPLING)]
    plain = Checks()
    job(Sampling(), plain).check()
    assert plain.checked == [("x", SAMPLING)], "nothing steers"
    writer = Checks()
    job(Nudging(), writer, guides=guides).check()
    assert writer.checked == [("writer", guides), ("x", SAMPLING)]
    bound, form = Checks(), Constraint.regex("ab")
    job(Sampling(), bound, constraint=form).check()
    assert bound.checked == [(form, SAMPLING), ("x", SAMPLING)]


def test_a_scorer_of_whole_answers_takes_no_part_of_one() -> None:
    beam = ChunkBeamSearch(width=2, successors=2, chunk_tokens=2)
    with pytest.raises(ConfigError, match="whole answers only"):
        job(beam, scorer=Checks(partial=False)).check()
    job(beam, scorer=Checks()).check()
    job(BestOfN(n=2), scorer=Checks(partial=False)).check()
    with pytest.raises(ConfigError, match="there is no scorer"):
        job(beam).check()


@pytest.mark.parametrize(
    ("need", "told"), [("until", "ends chunks"), ("drafts", "drafts"), ("by_guide", "write words")]
)
def test_a_form_does_not_allow_whatever_ends_elsewhere(need: str, told: str) -> None:
    bound = job(Sampling(), Checks(), constraint=Constraint.regex("ab"))
    with pytest.raises(ConfigError, match=rf"{told}.*, which an answer that has to have a form"):
        check_abilities({need}, bound)
    with pytest.raises(ConfigError, match="without replacement, which the proposer Checks cannot"):
        check_abilities({"distinct"}, bound)


def test_log_ratios_of_tokens_are_those_of_the_guides() -> None:
    class Guides:
        found: Any = ((1, 2.5), ())

        def token_ratios(self, hypotheses: Sequence[Hypothesis]) -> Any:
            assert len(hypotheses) == 2
            return self.found

    one, guides = Hypothesis.root("x"), Guides()
    asked = job(Sampling(), guides=guides)
    assert asked.token_ratios([one, one]) == [(1.0, 2.5), ()]
    for guides.found in (((1.0,),), ((1.0,), 2.0), ((1.0,), ("much",))):
        with pytest.raises(ScorerError, match="the guide pair Guides"):
            asked.token_ratios([one, one])
    with pytest.raises(ConfigError, match="there are no guides"):
        job(Sampling()).token_ratios([one])


@pytest.mark.parametrize("error", [StopIteration("I"), StopAsyncIteration("I")])
def test_an_error_that_ends_loops_is_none_of_a_check(error: Exception) -> None:
    class Stops(Here):
        def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
            raise error

    with pytest.raises(W2SError, match=rf"{type(error).__name__}\('I'\)"):
        job(Sampling(), Stops()).check()


def test_a_handle_is_watched_if_somebody_listens() -> None:
    def listen(event: Event) -> None:
        """Do nothing."""

    plain = job(Sampling())
    assert SearchHandle(plain, listen).watched
    assert not SearchHandle(plain).watched
    assert not SearchHandle(plain, listen, watched=False).watched
    handle = SearchHandle(plain)
    assert not handle.future.cancel(), "only cancel() below stops a search"
    assert not handle.cancelled
    handle.cancel()
    assert handle.cancelled
