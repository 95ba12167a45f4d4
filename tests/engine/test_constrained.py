"""Answers of a given form, through the engine: they parse, guided or not, however they are cut."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.helpers import tiny
from tests.helpers.schemas import PERSON, schemas
from w2s_chains import (
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    Sampling,
    SamplingParams,
    SearchStrategy,
    TokenSearch,
)
from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.asks import Expand
from w2s_chains.core.events import Finished
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConfigError, ConstraintError

STRATEGIES: list[SearchStrategy] = [
    Sampling(),
    EmulatedFineTuning(),
    BestOfN(n=3),
    TokenSearch(candidates=3, tau=0.5),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=1),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=5),
]


def job(proposer, scorer, strategy, constraint, seed=0, **sampling) -> Job:
    return Job(
        root=Hypothesis.root("The movie"),
        strategy=strategy,
        proposer=proposer,
        scorer=scorer,
        guides=scorer.pair,
        sampling=SamplingParams(**{"max_tokens": 60, **sampling}),
        seed=seed,
        constraint=constraint,
    )


def answers(jobs: Sequence[Job]) -> list[Finished]:
    for one in jobs:
        one.check()
    return [one.future.result(timeout=120) for one in Engine().submit(jobs)]


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
)
@given(
    schema=schemas,
    guided=st.sampled_from(STRATEGIES[1:]),
    seed=st.integers(0, 1000),
    spare=st.integers(0, 40),
)
def test_any_schema_any_strategy(proposer, pair, schema, guided, seed, spare):
    """Nested objects, enums, arrays, unicode, bounds; from a model that writes noise."""
    scorer = LogRatioScorer(pair)
    constraint = Constraint.json_schema(schema)
    try:
        grammar = proposer._grammars.compile(constraint)
    except ConstraintError:
        assume(False)
    limit = grammar.shortest + spare
    jobs = [
        job(proposer, scorer, strategy, constraint, seed=seed, max_tokens=limit)
        for strategy in (STRATEGIES[0], guided)
    ]
    for answer in answers(jobs):
        jsonschema.validate(json.loads(answer.text), schema)
        assert answer.completion_tokens <= limit


def test_without_a_constraint_it_does_not_parse(proposer, pair):
    """The control."""
    [answer] = answers([job(proposer, LogRatioScorer(pair), Sampling(), None)])
    with pytest.raises(ValueError, match=r"Expecting|Invalid"):
        json.loads(answer.text)


def test_batch_equals_singles_with_forms(proposer, pair):
    scorer = LogRatioScorer(pair)
    forms = [Constraint.json_schema(PERSON), Constraint.regex("[ab]{4,20}"), None]
    jobs = [job(proposer, scorer, STRATEGIES[4], form, seed=i) for i, form in enumerate(forms * 2)]
    together = [answer.text for answer in answers(jobs)]
    assert together == [answers([one])[0].text for one in jobs]
    assert len(set(together)) == 6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chunk_borders_change_nothing(proposer, pair, temperature):
    scorer = LogRatioScorer(pair)
    form = Constraint.json_schema(PERSON)
    texts = {
        answers(
            [
                job(
                    proposer,
                    scorer,
                    ChunkBeamSearch(width=1, successors=1, chunk_tokens=chunk),
                    form,
                    temperature=temperature,
                    top_p=0.95,
                )
            ]
        )[0].text
        for chunk in (1, 3, 7, None)
    }
    assert len(texts) == 1


def test_an_answer_cut_short_did_not_end_its_turn(proposer, pair):
    """Its form is complete, but the model would have gone on."""
    scorer = LogRatioScorer(pair)
    form = Constraint.regex("[a-z]*")
    [short] = answers([job(proposer, scorer, Sampling(), form, max_tokens=8, temperature=0.3)])
    assert short.finish_reason == "length"
    form = Constraint.regex("[a-z]{2}")
    [whole] = answers([job(proposer, scorer, Sampling(), form, max_tokens=8)])
    assert whole.finish_reason == "eos"


def test_refusals_come_before_work(proposer, pair):
    scorer = LogRatioScorer(pair)
    form = Constraint.json_schema(PERSON)
    before = proposer.lm.counters.forwards
    with pytest.raises(ConstraintError, match="max_tokens is 5"):
        job(proposer, scorer, Sampling(), form, max_tokens=5).check()
    with pytest.raises(ConfigError, match="stop"):
        job(proposer, scorer, Sampling(), form, stop="x").check()

    class Remote:
        def propose(self, requests: Sequence[Expand]) -> list[list[Hypothesis]]:
            raise AssertionError

    with pytest.raises(ConfigError, match="Remote cannot keep"):
        job(Remote(), scorer, Sampling(), form).check()
    assert proposer.lm.counters.forwards == before


def test_states_die_with_their_hypotheses(proposer, pair):
    scorer = LogRatioScorer(pair)
    engine = Engine()
    form = Constraint.json_schema(PERSON)
    [running] = engine.submit([job(proposer, scorer, STRATEGIES[4], form)])
    running.future.result()
    engine.close()
    del running
    gc.collect()
    assert len(proposer._states) == 0


def test_a_model_with_a_larger_table_than_its_vocabulary(pair):
    tokenizer = tiny.byte_tokenizer()
    proposer = HuggingFaceProposer(tiny.llama(400), tokenizer)
    assert Tokenizer(tokenizer, PromptTemplate(), ()).vocabulary == proposer.tokenizer.vocabulary
    form = Constraint.json_schema(PERSON)
    [answer] = answers([job(proposer, LogRatioScorer(pair), Sampling(), form)])
    jsonschema.validate(json.loads(answer.text), PERSON)
