"""W2SLLM as LangChain users call it, on tiny random models."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableParallel

from tests import tiny
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
    Sampling,
    SearchStrategy,
)
from w2s_chains.backend.lm.kv import Segment
from w2s_chains.config.describe import describe
from w2s_chains.errors import ConfigError, ScorerError, W2SError

PROMPT = "The movie was great"
PROMPTS = [f"{'The film is ' * (i % 4)}number {i}" for i in range(16)]

BEAM = ChunkBeamSearch(width=2, successors=2, chunk_tokens=4)
STRATEGIES = [
    BEAM,
    ChunkBeamSearch(width=2, successors=3, chunk_tokens=3, return_best="finished"),
    ChunkBeamSearch(width=2, successors=2, chunk_tokens=3, steering=0.5),
    BestOfN(n=3),
    Sampling(),
    EmulatedFineTuning(beta=0.7),
]
every_strategy = pytest.mark.parametrize(
    "strategy", STRATEGIES, ids=["beam", "finished", "steered", "best-of-n", "sampling", "eft"]
)


@pytest.fixture
def llm(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> W2SLLM:
    return W2SLLM(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=12, seed=0)


def forwards(llm: W2SLLM) -> int:
    """Passes of all three models so far."""
    assert isinstance(llm.proposer, HuggingFaceProposer)
    count = llm.proposer.lm.counters.forwards
    pair = getattr(llm.scorer, "pair", None) or llm.guide
    for guide in (pair.tuned, pair.untuned) if isinstance(pair, GuidePair) else ():
        assert isinstance(guide, HuggingFaceGuide)
        count += guide.lm.counters.forwards
    return count


def endless(llm: W2SLLM, strategy: SearchStrategy, max_tokens: int) -> W2SLLM:
    """With a seed with which the answer to PROMPT does not end before ``max_tokens``."""
    llm = llm.model_copy(update={"strategy": strategy, "max_tokens": max_tokens})
    for seed in range(100):
        info = llm.generate([PROMPT], seed=seed).generations[0][0].generation_info or {}
        if info["finish_reason"] == "length":
            return llm.model_copy(update={"seed": seed})
    raise AssertionError("all answers end early")


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "w2s-engine"]


def wait_for_engine(seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while engine_threads():
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.005)


@pytest.fixture
def frozen_gc() -> Iterator[None]:
    """Makes ``in_memory`` fast: it sees only what is made from now on."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def in_memory() -> dict[str, int]:
    gc.collect()
    kinds = [type(thing) for thing in gc.get_objects()]
    return {kind.__name__: kinds.count(kind) for kind in (Segment, Hypothesis)}


class Recorder(BaseCallbackHandler):
    """Counts what LangChain tells."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.starts = self.ends = self.errors = 0
        self.lock = threading.Lock()

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self.starts += 1

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self.ends += 1

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        with self.lock:
            self.errors += 1


class BadScorer:
    """A scorer that fails for texts below a prompt that says so."""

    def __init__(self, how: Callable[[Sequence[Hypothesis]], list[float]]) -> None:
        self.how = how

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        if any("bad" in str(h.prompt.text) for h in hypotheses):
            return self.how(hypotheses)
        return [float(len(h.response)) for h in hypotheses]


def nan_if_bad(hypotheses: Sequence[Hypothesis]) -> list[float]:
    return [float("nan") if "bad" in str(h.prompt.text) else len(h.response) for h in hypotheses]


# Ways to call.


@every_strategy
@pytest.mark.parametrize("stop", [(), ("a", "的", "  ")], ids=["", "stop"])
def test_all_ways_to_call_agree(llm: W2SLLM, strategy: SearchStrategy, stop: tuple[str]) -> None:
    llm = llm.model_copy(update={"strategy": strategy, "stop": stop})
    answer = llm.invoke(PROMPT)
    assert llm.invoke(PROMPT) == answer
    assert "".join(llm.stream(PROMPT)) == answer
    assert llm.batch([PROMPT]) == [answer]
    assert llm.batch([PROMPT], return_exceptions=True) == [answer]
    assert llm.generate([PROMPT]).generations[0][0].text == answer
    assert not any(s in answer for s in stop)
    # Control: another seed, another answer.
    assert any(llm.invoke(PROMPT, seed=seed) != answer for seed in (1, 2, 3))


@pytest.mark.parametrize(
    "strategy", [Sampling(), EmulatedFineTuning(), ChunkBeamSearch(width=1, chunk_tokens=3)]
)
def test_a_stream_comes_in_pieces(llm: W2SLLM, strategy: SearchStrategy) -> None:
    llm = endless(llm, strategy, 60)
    pieces = list(llm.stream(PROMPT))
    assert sum(map(bool, pieces)) > 2
    assert "".join(pieces) == llm.invoke(PROMPT)


def test_the_first_text_comes_before_the_search_ends(llm: W2SLLM) -> None:
    """Control for the test above: pieces must not be one answer cut up at the end."""
    stream = endless(llm, Sampling(), 100).stream(PROMPT)
    before = forwards(llm)
    next(stream)
    early = forwards(llm) - before
    list(stream)
    assert early < (forwards(llm) - before) / 2


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    temperature=st.just(0.0) | st.floats(1e-6, 1e6),
    top_p=st.floats(1e-6, 1.0),
    top_k=st.none() | st.integers(1, 1000),
    repetition_penalty=st.floats(0.1, 10),
    seed=st.integers(-(2**70), 2**70),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=3),
    prompt=st.text(min_size=1, max_size=20),
)
def test_any_valid_sampling_gives_the_same_answer_twice(
    llm: W2SLLM, prompt: str, **sampling: Any
) -> None:
    answer = llm.invoke(prompt, max_tokens=5, **sampling)
    assert "".join(llm.stream(prompt, max_tokens=5, **sampling)) == answer
    assert llm.batch([PROMPT, prompt], max_tokens=5, **sampling)[1] == answer
    assert not any(s in answer for s in sampling["stop"])


def test_greedy_ignores_the_seed(llm: W2SLLM) -> None:
    greedy = llm.bind(temperature=0, strategy=Sampling())
    assert greedy.invoke(PROMPT, seed=1) == greedy.invoke(PROMPT, seed=2)


def test_no_seed_draws_a_fresh_one_for_every_answer(llm: W2SLLM) -> None:
    free = llm.model_copy(update={"seed": None, "strategy": Sampling()})
    answers = [*free.batch([PROMPT] * 4), free.invoke(PROMPT), free.invoke(PROMPT)]
    assert len(set(answers)) > 3
    fixed = llm.batch([PROMPT] * 4)  # control
    assert len(set(fixed)) == 1


# Stop strings.


@pytest.mark.parametrize("streamed", [False, True])
def test_stop_as_text_or_list_per_call_or_configured(llm: W2SLLM, streamed: bool) -> None:
    def call(llm: W2SLLM, **options: Any) -> str:
        return "".join(llm.stream(PROMPT, **options)) if streamed else llm.invoke(PROMPT, **options)

    llm = llm.model_copy(update={"strategy": Sampling(), "max_tokens": 30})
    whole = call(llm)
    assert len(whole) > 5
    mark = whole[len(whole) // 2 :][:2]
    cut = whole[: whole.index(mark)]
    assert cut != whole
    assert call(llm, stop=[mark]) == call(llm, stop=mark) == cut
    assert call(llm.model_copy(update={"stop": (mark,)})) == cut
    assert W2SLLM(proposer=llm.proposer, stop=mark).stop == (mark,)
    # What a call says replaces what is configured.
    assert call(llm.model_copy(update={"stop": (mark,)}), stop=[]) == whole
    assert call(llm, stop=["never in it"]) == whole
    first = llm.generate([PROMPT], stop=[mark]).generations[0][0]
    assert first.generation_info is not None
    assert first.generation_info["finish_reason"] == "stop"


# Several answers.


def test_n_answers_come_from_different_seeds_and_the_first_is_that_of_one(llm: W2SLLM) -> None:
    one = llm.generate(PROMPTS[:3]).generations
    many = llm.generate(PROMPTS[:3], n=4).generations
    assert [len(own) for own in many] == [4, 4, 4]
    assert [own[0].text for own in many] == [own[0].text for own in one]
    assert all(len({g.text for g in own}) > 2 for own in many)
    again = llm.model_copy(update={"n": 4}).generate(PROMPTS[:3]).generations
    assert [[g.text for g in own] for own in again] == [[g.text for g in own] for own in many]
    assert llm.invoke(PROMPTS[0], n=4) == one[0][0].text


def test_n_answers_read_the_prompt_once(llm: W2SLLM, proposer: HuggingFaceProposer) -> None:
    llm.generate([PROMPT], n=4)
    assert proposer.lm.counters.prefills == 1


# Overrides.


def test_a_call_can_override_everything_that_answers_depend_on(llm: W2SLLM) -> None:
    changed = {
        "max_tokens": 3, "temperature": 0.0, "seed": 9, "top_p": 0.3, "top_k": 2,
        "repetition_penalty": 3.0, "stop": ["e"], "strategy": Sampling(), "n": 2,
    }  # fmt: skip
    before = llm.asdict()
    for name, value in changed.items():
        rebuilt = W2SLLM(
            **{**{f: getattr(llm, f) for f in W2SLLM.model_fields}, name: value}
        ).invoke(PROMPT)
        assert llm.invoke(PROMPT, **{name: value}) == rebuilt, name
        assert llm.bind(**{name: value}).invoke(PROMPT) == rebuilt, name
    assert llm.asdict() == before
    assert len(llm.proposer.tokenizer.encode(llm.invoke(PROMPT, max_tokens=3))) <= 9
    # Control: most of them change the answer.
    answers = {llm.invoke(PROMPT, **{name: value}) for name, value in changed.items()}
    assert len(answers) > 5


def test_a_strategy_may_be_a_mapping(llm: W2SLLM) -> None:
    as_object = llm.invoke(PROMPT, strategy=BestOfN(n=5))
    assert llm.invoke(PROMPT, strategy={"type": "best_of_n", "n": 5}) == as_object
    assert as_object != llm.invoke(PROMPT)
    built = W2SLLM(proposer=llm.proposer, strategy={"type": "best_of_n", "n": 5})
    assert built.strategy == BestOfN(n=5)


def test_other_prompts_than_text(llm: W2SLLM) -> None:
    assert llm.invoke([("human", "hi")]) == llm.invoke("Human: hi")
    value = PromptTemplate.from_template("{a}!").invoke({"a": "hi"})
    assert llm.invoke(value) == llm.invoke("hi!")


# As part of chains.


def test_in_chains(llm: W2SLLM) -> None:
    prompt = PromptTemplate.from_template("The movie {what}")
    chain = prompt | llm | StrOutputParser()
    answer = llm.invoke("The movie was")
    assert chain.invoke({"what": "was"}) == answer
    assert "".join(chain.stream({"what": "was"})) == answer
    assert len(list(chain.stream({"what": "was"}, config={"tags": ["t"]}))) >= 1
    assert chain.batch([{"what": "was"}, {"what": "is"}])[0] == answer
    both = RunnableParallel(guided=llm, base=llm.bind(strategy=Sampling()))
    assert both.invoke(PROMPT) == {
        "guided": llm.invoke(PROMPT),
        "base": llm.invoke(PROMPT, strategy=Sampling()),
    }
    assert llm.with_config(tags=["x"], run_name="y").invoke("The movie was") == answer
    assert llm.with_fallbacks([llm]).invoke("The movie was") == answer


def test_configurable_fields_reload_nothing(llm: W2SLLM) -> None:
    open_llm = llm.configurable_fields(
        temperature=ConfigurableField(id="t"), strategy=ConfigurableField(id="s")
    )
    assert open_llm.invoke(PROMPT) == llm.invoke(PROMPT)
    cold = open_llm.with_config(configurable={"t": 0.0})
    assert cold.invoke(PROMPT) == llm.invoke(PROMPT, temperature=0) != llm.invoke(PROMPT)
    for strategy in (BestOfN(n=2), {"type": "best_of_n", "n": 2}):
        other = open_llm.with_config(configurable={"s": strategy})
        assert other.invoke(PROMPT) == llm.invoke(PROMPT, strategy=strategy)
    assert "".join(cold.stream(PROMPT)) == llm.invoke(PROMPT, temperature=0)
    with pytest.raises(ConfigError, match=r"temperature.*greater than or equal to 0.*-1"):
        open_llm.with_config(configurable={"t": -1}).invoke(PROMPT)


def test_with_retry_tries_again(llm: W2SLLM) -> None:
    tries: list[int] = []

    def fail_once(hypotheses: Sequence[Hypothesis]) -> list[float]:
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("not now")
        return [0.0] * len(hypotheses)

    shaky = W2SLLM(proposer=llm.proposer, scorer=BadScorer(fail_once), max_tokens=8, seed=0)
    answer = shaky.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("bad")
    assert isinstance(answer, str)
    assert len(tries) > 1


# Callbacks.


def test_new_tokens_are_told_while_streaming_only(llm: W2SLLM) -> None:
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    answer = llm.invoke(PROMPT, config)
    llm.batch([PROMPT, "x"], config)
    llm.batch([PROMPT, "x"], config, return_exceptions=True)
    assert recorder.tokens == []
    assert (recorder.starts, recorder.ends, recorder.errors) == (5, 5, 0)
    assert "".join(llm.stream(PROMPT, config)) == "".join(recorder.tokens) == answer
    assert recorder.ends == 6


def test_callbacks_may_be_an_empty_list(llm: W2SLLM) -> None:
    answer = llm.invoke(PROMPT)
    assert llm.invoke(PROMPT, {"callbacks": []}) == answer
    assert llm.batch([PROMPT], {"callbacks": []}) == [answer]
    assert "".join(llm.stream(PROMPT, {"callbacks": []})) == answer


def test_a_run_id_is_used_once_in_a_batch(llm: W2SLLM) -> None:
    import uuid

    seen: list[Any] = []

    class Ids(BaseCallbackHandler):
        def on_llm_start(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
            seen.append(run_id)

    config: Any = {"callbacks": [Ids()], "run_id": uuid.uuid4()}
    with pytest.warns(RuntimeWarning, match="run_id"):
        llm.batch(["a", "b"], config, return_exceptions=True)
    assert len(set(seen)) == 2


def test_errors_reach_the_callbacks(llm: W2SLLM) -> None:
    bad = W2SLLM(proposer=llm.proposer, scorer=BadScorer(lambda _: [float("nan")]), max_tokens=8)
    recorder = Recorder()
    config: Any = {"callbacks": [recorder]}
    bad.batch(["good", "bad"], config, return_exceptions=True)
    assert (recorder.starts, recorder.ends, recorder.errors) == (2, 1, 1)


# LangChain's cache.


@dataclass
class ByLength:
    """Equal ones cannot be hashed."""

    sign: float = 1.0

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.sign * len(h.response) for h in hypotheses]


class Slotted:
    """No weak reference to it is possible."""

    __slots__ = ("sign",)

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.sign * len(h.response) for h in hypotheses]


class Weighted(LogRatioScorer):
    """Has the pair of a log-ratio and something of its own."""

    def __init__(self, pair: GuidePair, weight: float) -> None:
        super().__init__(pair)
        self.weight = weight

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        return [self.weight * value for value in super().score(hypotheses)]


class Mine(Sampling):
    """Has the same ``type`` as its base, but may search otherwise."""


def variants(llm: W2SLLM, pair: GuidePair) -> dict[str, dict[str, Any]]:
    other = HuggingFaceProposer(tiny.llama(320, seed=9), tiny.byte_tokenizer())
    return {
        "max_tokens": {"max_tokens": 7},
        "temperature": {"temperature": 0.0},
        "top_p": {"top_p": 0.4},
        "top_k": {"top_k": 3},
        "repetition_penalty": {"repetition_penalty": 2.0},
        "stop": {"stop": ("e", "a")},
        "other stop": {"stop": ("e",)},
        "seed": {"seed": 1},
        "n": {"n": 2},
        "strategy": {"strategy": BestOfN(n=4)},
        "strategy parameter": {"strategy": BestOfN(n=5)},
        "strategy class": {"strategy": Sampling()},
        "strategy class with the same type": {"strategy": Mine()},
        "proposer": {"proposer": other},
        "swapped": {"scorer": LogRatioScorer(pair.swapped())},
        "guide": {"guide": pair.swapped()},
        "no scorer": {"scorer": None},
        "weighted": {"scorer": Weighted(pair, 1.0)},
        "weighted otherwise": {"scorer": Weighted(pair, -1.0)},
        "unhashable": {"scorer": ByLength(1.0)},
        "unhashable and equal": {"scorer": ByLength(1.0)},
        "slotted": {"scorer": Slotted(1.0)},
        "slotted too": {"scorer": Slotted(1.0)},
    }


def test_two_configurations_never_share_a_cache_entry(llm: W2SLLM, pair: GuidePair) -> None:
    cache = InMemoryCache()
    llm.model_copy(update={"cache": cache}).invoke(PROMPT)
    fields = {name: getattr(llm, name) for name in W2SLLM.model_fields}
    entries = len(cache._cache)
    assert entries == 1
    kept = []  # or the id of a part that is gone would be used again, which is tested below
    for name, changed in variants(llm, pair).items():
        other = W2SLLM(**{**fields, **changed, "cache": cache})
        kept.append(other)
        if other.scorer is None:
            other.strategy = Sampling()
        other.invoke(PROMPT)
        entries += 1
        assert len(cache._cache) == entries, name
    # Control: the same configuration hits.
    before = forwards(llm)
    assert W2SLLM(**{**fields, "cache": cache}).invoke(PROMPT) == llm.model_copy().invoke(PROMPT)
    assert len(cache._cache) == entries
    used = forwards(llm) - before
    kept[0].invoke(PROMPT)
    assert forwards(llm) - before == used


@pytest.mark.parametrize("kind", [ByLength, Slotted])
def test_a_part_made_where_another_died_has_another_name(kind: Any) -> None:
    part = kind(1.0)
    assert describe(part) == describe(part)
    assert len({describe(kind(1.0)) for _ in range(50)}) == 50


def test_per_call_overrides_never_get_a_stale_hit(llm: W2SLLM) -> None:
    cached = llm.model_copy(update={"cache": InMemoryCache()})
    changes: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"seed": 4}, {"max_tokens": 4}, {"strategy": Sampling()},
        {"stop": ["e"]}, {"top_k": 2},
    ]  # fmt: skip
    fresh = [llm.invoke(PROMPT, **changed) for changed in changes]
    for _ in range(2):
        assert [cached.invoke(PROMPT, **changed) for changed in changes] == fresh
        assert [cached.bind(**changed).invoke(PROMPT) for changed in changes] == fresh
    before = forwards(llm)
    assert [cached.invoke(PROMPT, **changed) for changed in changes] == fresh
    assert cached.batch([PROMPT]) == fresh[:1]
    assert forwards(llm) == before, "all of them are hits"
    cached.invoke("The movie was grea")  # control
    assert forwards(llm) > before


def test_a_configured_stop_and_the_same_stop_in_a_call_are_one_entry(llm: W2SLLM) -> None:
    cache = InMemoryCache()
    configured = llm.model_copy(update={"cache": cache, "stop": ("e",)})
    answer = configured.invoke(PROMPT)
    plain = llm.model_copy(update={"cache": cache})
    assert plain.invoke(PROMPT, stop=["e"]) == answer
    assert len(cache._cache) == 1
    assert plain.invoke(PROMPT) == llm.invoke(PROMPT)
    assert len(cache._cache) == 2


# What comes with the text.


def test_generation_info_and_usage(llm: W2SLLM, proposer: HuggingFaceProposer) -> None:
    result = llm.generate(PROMPTS[:4])
    infos: list[dict[str, Any]] = [own[0].generation_info or {} for own in result.generations]
    for prompt, info in zip(PROMPTS, infos, strict=False):
        assert set(info) == {
            "score", "finish_reason", "completion_tokens", "prompt_tokens", "proposed_tokens",
            "guide_tokens", "kl",
        }  # fmt: skip
        assert info["prompt_tokens"] == len(
            proposer.tokenizer.prompt_ids(Hypothesis.root(prompt).prompt)
        )
        assert info["finish_reason"] in ("length", "eos")
        assert info["completion_tokens"] <= 12
        assert (info["completion_tokens"] == 12) == (info["finish_reason"] == "length")
        # 2 x 2 children of 4 tokens, three times.
        assert 12 <= info["proposed_tokens"] <= 48
    # At least the prompt twice; at most prompt, answers and end tokens, twice.
    for info in infos:
        assert info["guide_tokens"] > 2 * info["prompt_tokens"]
        assert info["guide_tokens"] <= 2 * (info["prompt_tokens"] + info["proposed_tokens"])
    usage = (result.llm_output or {})["token_usage"]
    for name in ("prompt_tokens", "proposed_tokens", "guide_tokens"):
        assert usage[name] == sum(info[name] for info in infos)
    unguided = llm.generate([PROMPT], strategy=Sampling(), n=2)
    assert (unguided.llm_output or {})["token_usage"]["proposed_tokens"] <= 24


def test_without_scorer_there_is_no_score(proposer: HuggingFaceProposer) -> None:
    llm = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=5, seed=0)
    info = llm.generate([PROMPT]).generations[0][0].generation_info
    assert info is not None
    assert info["score"] is None
    assert info["guide_tokens"] == 0


def test_the_last_piece_of_a_stream_carries_the_info(llm: W2SLLM) -> None:
    ends: list[Any] = []

    class Ends(BaseCallbackHandler):
        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            ends.append(response.generations[0][0].generation_info)

    list(llm.stream(PROMPT, {"callbacks": [Ends()]}))
    assert ends[0] == llm.generate([PROMPT]).generations[0][0].generation_info


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if not s.token_steering])
def test_the_score_is_that_of_the_text(
    proposer: HuggingFaceProposer, foreign_pair: GuidePair, strategy: SearchStrategy
) -> None:
    """Guides with another vocabulary see text, so that the text alone must give the score again."""
    llm = W2SLLM(
        proposer=proposer, scorer=LogRatioScorer(foreign_pair), strategy=strategy, max_tokens=10,
        seed=0,
    )  # fmt: skip
    fresh = GuidePair(
        *(HuggingFaceGuide(g.lm.model, g.text.tokenizer) for g in _both(foreign_pair))
    )
    result = llm.generate(PROMPTS[:6]).generations
    texts = [own[0].text for own in result]
    ended = [(own[0].generation_info or {})["finish_reason"] == "eos" for own in result]
    scores = [(own[0].generation_info or {})["score"] for own in result]
    wanted = LogRatioScorer(fresh).score_texts(PROMPTS[:6], texts, ended)
    assert scores == pytest.approx(wanted, abs=1e-4)
    swapped = LogRatioScorer(fresh.swapped()).score_texts(PROMPTS[:6], texts, ended)
    assert scores == pytest.approx([-value for value in swapped], abs=1e-4)
    assert max(map(abs, scores)) > 0.01  # control: not all zero


def _both(pair: GuidePair) -> list[HuggingFaceGuide]:
    assert isinstance(pair.tuned, HuggingFaceGuide)
    assert isinstance(pair.untuned, HuggingFaceGuide)
    return [pair.tuned, pair.untuned]


class Remembering(LogRatioScorer):
    """Remembers the token ids of what it scored."""

    def __init__(self, pair: GuidePair) -> None:
        super().__init__(pair)
        self.ids: dict[tuple[str, float], tuple[tuple[int, ...], bool]] = {}

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        scores = super().score(hypotheses)
        for h, value in zip(hypotheses, scores, strict=True):
            assert h.response_ids is not None
            self.ids[h.response, value] = h.response_ids, h.ended
        return scores


def test_the_score_is_that_of_a_plain_forward_over_the_tokens(
    proposer: HuggingFaceProposer, pair: GuidePair
) -> None:
    scorer = Remembering(pair)
    llm = W2SLLM(proposer=proposer, scorer=scorer, strategy=BEAM, max_tokens=10, seed=0)
    for prompt, own in zip(PROMPTS[:6], llm.generate(PROMPTS[:6]).generations, strict=True):
        info = own[0].generation_info or {}
        ids, ended = scorer.ids[own[0].text, info["score"]]
        assert ended == (info["finish_reason"] == "eos")
        assert len(ids) == info["completion_tokens"]
        prompt_ids = proposer.tokenizer.prompt_ids(Hypothesis.root(prompt).prompt)
        whole = torch.tensor([[*prompt_ids, *ids, *([1] if ended else [])]])
        values = []
        for guide in _both(pair):
            with torch.inference_mode():
                logprobs = guide.lm.model(whole).logits.float().log_softmax(-1)[0, :-1]
            chosen = logprobs.gather(1, whole[0, 1:, None])[:, 0]
            values.append(float(chosen[len(prompt_ids) - 1 :].sum()))
        assert info["score"] == pytest.approx(values[0] - values[1], abs=1e-4)


# Batches.


@every_strategy
def test_a_batch_is_its_invokes_in_any_order(llm: W2SLLM, strategy: SearchStrategy) -> None:
    llm = llm.model_copy(update={"strategy": strategy})
    singles = [llm.invoke(prompt) for prompt in PROMPTS]
    assert len(set(singles)) > 10
    assert llm.batch(PROMPTS) == singles
    assert llm.batch(PROMPTS[::-1], return_exceptions=True) == singles[::-1]
    assert llm.batch(PROMPTS, {"max_concurrency": 5}) == singles
    # Control: the seed is what makes them equal.
    assert llm.batch(PROMPTS, seed=1) != singles


@pytest.mark.parametrize("budget", [1, 100])
def test_no_token_budget_changes_a_batch(llm: W2SLLM, pair: GuidePair, budget: int) -> None:
    tokenizer = tiny.byte_tokenizer()
    small = HuggingFaceProposer(llm.proposer.lm.model, tokenizer, token_budget=budget)
    guides = [HuggingFaceGuide(g.lm.model, tokenizer, token_budget=budget) for g in _both(pair)]
    cut = llm.model_copy(update={"proposer": small, "scorer": LogRatioScorer(GuidePair(*guides))})
    before = forwards(llm)
    whole = llm.batch(PROMPTS)
    assert cut.batch(PROMPTS) == whole
    assert forwards(cut) > forwards(llm) - before, "control: the budget cuts"


def test_a_batch_shares_model_calls(llm: W2SLLM) -> None:
    before = forwards(llm)
    for prompt in PROMPTS:
        llm.invoke(prompt)
    singles = forwards(llm) - before
    for options in ({}, {"return_exceptions": True}):
        before = forwards(llm)
        llm.batch(PROMPTS, **options)
        assert forwards(llm) - before < singles / 5, options


def test_more_prompts_than_the_engine_runs_at_once(llm: W2SLLM) -> None:
    prompts = [f"{i} film" for i in range(20)]
    few = llm.model_copy(update={"engine": Engine(max_live=3)})
    assert few.batch(prompts) == few.batch(prompts, return_exceptions=True) == llm.batch(prompts)


def test_an_empty_batch(llm: W2SLLM) -> None:
    assert llm.batch([]) == llm.batch([], return_exceptions=True) == []


def test_threads_do_not_mix_up_their_answers(llm: W2SLLM) -> None:
    singles = [llm.invoke(prompt) for prompt in PROMPTS]
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        answers[i] = "".join(llm.stream(PROMPTS[i])) if i % 2 else llm.invoke(PROMPTS[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [answers[i] for i in range(16)] == singles


# Failures.


@pytest.mark.parametrize(
    ("how", "error", "told"),
    [
        (nan_if_bad, ScorerError, "BadScorer returned NaN"),
        (lambda hs: [0.0] * (len(hs) + 1), ScorerError, "scores for .* hypotheses"),
        (lambda hs: [], ScorerError, "returned 0 scores"),
        (lambda hs: 1 / 0, ZeroDivisionError, "division"),
        (lambda hs: ["x"] * len(hs), ValueError, "could not convert"),
        (lambda hs: None, TypeError, "not iterable"),
    ],
    ids=["nan", "too many", "none", "raises", "text", "no list"],
)
def test_a_bad_scorer_fails_its_own_prompt_only(
    proposer: HuggingFaceProposer, how: Any, error: type[Exception], told: str
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=BadScorer(how), strategy=BEAM, max_tokens=8, seed=0)
    prompts = ["good one", "bad one", "another good", "bad too", "the last"]
    good = [llm.invoke(prompt) for prompt in prompts if "bad" not in prompt]
    outcomes: list[Any] = llm.batch(prompts, return_exceptions=True)
    assert [outcomes[i] for i in (0, 2, 4)] == good
    for i in (1, 3):
        with pytest.raises(error, match=told):
            raise outcomes[i]
    with pytest.raises(error, match=told):
        llm.batch(prompts)
    with pytest.raises(error, match=told):
        list(llm.stream("bad one"))
    assert llm.batch(prompts[:1]) == good[:1], "the engine goes on"


def test_the_first_error_of_a_batch_is_told_while_others_still_run(
    proposer: HuggingFaceProposer,
) -> None:
    """A failing prompt that is not the first, and a first one that takes much longer."""
    llm = W2SLLM(
        proposer=proposer,
        scorer=BadScorer(lambda hs: 1 / 0),
        strategy=BEAM,
    )
    llm = endless(llm, BEAM, 300)
    before = forwards(llm)
    with pytest.raises(ZeroDivisionError):
        llm.batch([PROMPT, "bad"])
    wait_for_engine()
    assert forwards(llm) - before < 100, "the long one was stopped"


# Cancelling.


def long_llm(llm: W2SLLM) -> W2SLLM:
    return endless(llm, Sampling(), 200)


def test_an_interrupted_invoke_stops_the_engine(
    llm: W2SLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    llm = long_llm(llm)
    monkeypatch.setattr("w2s_chains.engine.waiting.wait", interrupt)
    before = forwards(llm)
    with pytest.raises(KeyboardInterrupt):
        llm.batch(PROMPTS[:4])
    wait_for_engine()
    assert forwards(llm) - before < 60


def test_the_engine_rests_when_there_is_nothing_to_do(llm: W2SLLM) -> None:
    llm.batch(PROMPTS[:3])
    wait_for_engine()
    assert llm.invoke(PROMPT) == llm.invoke(PROMPT)


# Odds and ends.


@pytest.mark.parametrize("options", [{}, {"return_exceptions": True}])
def test_a_progress_bar_on_request(
    llm: W2SLLM, options: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    llm.batch(PROMPTS[:3], **options)
    assert capfd.readouterr().err == ""
    llm.batch(PROMPTS[:3], progress=True, **options)
    shown = capfd.readouterr().err
    one, three = llm.max_tokens, 3 * llm.max_tokens
    assert f" {three}/{three} " in shown
    assert "chunk_beam" in shown
    assert f" {one}/{one} " not in shown
    llm.model_copy(update={"progress": True}).batch(PROMPTS[:2], **options)
    assert f" {2 * one}/{2 * one} " in capfd.readouterr().err


def test_a_stream_of_several_answers_is_refused(llm: W2SLLM) -> None:
    with pytest.raises(ConfigError, match=r"n is 2; set n=1"):
        next(iter(llm.stream(PROMPT, n=2)))


def test_copies_share_the_models(llm: W2SLLM) -> None:
    for other in (
        copy.copy(llm), copy.deepcopy(llm), llm.model_copy(), llm.model_copy(deep=True),
        llm.bind(seed=0).bound,
    ):  # fmt: skip
        assert isinstance(other, W2SLLM)
        assert other.proposer is llm.proposer
        assert other.scorer is llm.scorer
        assert other.engine is llm.engine
        assert other.invoke(PROMPT) == llm.invoke(PROMPT)
    other = copy.deepcopy(llm)
    other.seed = 5
    assert llm.seed == 0


def test_pickling_is_refused_with_a_remedy(llm: W2SLLM) -> None:
    with pytest.raises(W2SError, match=r"cannot be pickled.*to_config.*from_config"):
        pickle.dumps(llm)


def test_langchain_can_show_it_and_does_not_serialise_it(llm: W2SLLM, tmp_path: Any) -> None:
    shown = dumpd(llm)
    assert shown["type"] == "not_implemented"
    assert "ChunkBeamSearch" in shown["repr"]
    assert "Llama" not in repr(llm)
    assert not llm.is_lc_serializable()
    assert llm._llm_type == "w2s"
    assert set(llm.model_dump()) & {"proposer", "scorer", "guide", "engine"} == set()
    assert llm.model_dump()["strategy"]["width"] == 2
    llm.save(tmp_path / "llm.json")


def test_assigned_values_are_checked(llm: W2SLLM) -> None:
    llm.temperature = 0.5
    llm.callbacks = [Recorder()]
    llm.strategy = {"type": "sampling"}
    assert llm.strategy == Sampling()
    with pytest.raises(ConfigError, match=r"temperature.*greater than or equal to 0 \(got -1\)"):
        llm.temperature = -1
    assert llm.temperature == 0.5
