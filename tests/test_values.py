"""Numbers, nesting and scores are what they are, not what they might be taken for."""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from w2s_chains import (
    W2SLLM,
    BestOfN,
    CallableScorer,
    ChunkBeamSearch,
    ConfigError,
    EmulatedFineTuning,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioConfig,
    LogRatioScorer,
    MixtureScorer,
    Model,
    SamplingParams,
    ScorerError,
    drive,
)
from w2s_chains.comparison import Study
from w2s_chains.config.files import load_config
from w2s_chains.rewards import build_reward
from w2s_chains.values import MAX_DEPTH, as_scores, refuse_excess

WHOLE: list[Callable[[Any], Any]] = [
    lambda v: ChunkBeamSearch(width=v).width,
    lambda v: ChunkBeamSearch(chunk_tokens=v).chunk_tokens,
    lambda v: BestOfN(n=v).n,
    lambda v: SamplingParams(max_tokens=v).max_tokens,
    lambda v: SamplingParams(top_k=v).top_k,
    lambda v: SamplingParams(seed=v).seed,
    lambda v: Model("x", token_budget=v).token_budget,
    lambda v: Study(prompts=("a",), limit=v, configs={"a": {"proposer": "x"}}).limit,  # pyright: ignore[reportArgumentType]
    lambda v: Study(prompts=("a",), seeds=(v,), configs={"a": {"proposer": "x"}}).seeds[0],  # pyright: ignore[reportArgumentType]
    lambda v: load_config({"proposer": "x", "generation": {"n": v}}).generation.n,
]
REAL: list[Callable[[Any], Any]] = [
    lambda v: SamplingParams(temperature=v).temperature,
    lambda v: SamplingParams(repetition_penalty=v).repetition_penalty,
    lambda v: EmulatedFineTuning(beta=v).beta,
    lambda v: LogRatioConfig(base_weight=v).base_weight,
]


@pytest.mark.parametrize("make", WHOLE)
@pytest.mark.parametrize("value", [True, np.bool_(True), "4", b"4", "four", 4.5, [4], None])
def test_no_whole_number(make: Callable[[Any], Any], value: Any) -> None:
    if value is None and make(3) == 3:
        return  # some are optional
    with pytest.raises(ConfigError, match=r"valid integer|fractional"):
        make(value)


@pytest.mark.parametrize("make", WHOLE)
@pytest.mark.parametrize("value", [4, 4.0, np.int64(4), np.float64(4), torch.tensor(4), Decimal(4)])
def test_a_whole_number(make: Callable[[Any], Any], value: Any) -> None:
    """Control: what was right stays right."""
    assert make(value) == 4
    assert type(make(value)) is int


@pytest.mark.parametrize("make", REAL)
def test_real_numbers(make: Callable[[Any], Any]) -> None:
    for value in (True, "0.7", b"1", "nan", [1.0], None, 1j):
        with pytest.raises(ConfigError, match="valid number"):
            make(value)
    for value in (2, 2.0, np.float32(2), Fraction(2), torch.tensor(2.0)):
        assert make(value) == 2.0
    assert make("1e-1") == 0.1, "YAML 1.1 takes it for text"


def test_booleans_and_text() -> None:
    for value in (1, 0, "yes", "true", 1.0):
        with pytest.raises(ConfigError, match="valid boolean"):
            LogRatioConfig(per_token=value)  # pyright: ignore[reportArgumentType]
    assert LogRatioConfig(per_token=np.bool_(True)).per_token is True  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="put it in quotes"):
        load_config({"proposer": {"model": True}})


def test_of_a_call(proposer: HuggingFaceProposer) -> None:
    llm = W2SLLM(proposer=proposer, strategy="sampling", max_tokens=2)
    for wrong in ({"max_tokens": "3"}, {"n": True}, {"temperature": "0.5"}, {"seed": "1"}):
        with pytest.raises(ConfigError, match="valid"):
            llm.invoke("a", **wrong)  # pyright: ignore[reportArgumentType]
    assert isinstance(llm.invoke("a", max_tokens=3.0, temperature=0, seed=np.int64(1)), str)


# Bounds.


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ChunkBeamSearch(width=10**9), "less than or equal to 65536"),
        (lambda: ChunkBeamSearch(successors=10**9), "less than or equal to 65536"),
        (lambda: ChunkBeamSearch(width=1000, successors=1000), "1,000,000 .* most is 65,536"),
        (lambda: ChunkBeamSearch(chunk_tokens=10**9), "less than or equal to 1048576"),
        (lambda: BestOfN(n=10**9), "less than or equal to 65536"),
        (lambda: SamplingParams(max_tokens=10**9), "less than or equal to 1048576"),
        (lambda: SamplingParams(max_tokens=10**9999), "an integer of 33,216 bits"),
        (lambda: SamplingParams(seed=10**9999), "128 bits"),
        (lambda: load_config({"proposer": "x", "generation": {"n": 10**9}}), "equal to 65536"),
        (
            lambda: load_config(
                {
                    "proposer": "x",
                    "strategy": {"type": "best_of_n", "n": 60_000},
                    "generation": {"n": 60_000},
                }
            ),
            "3,600,000,000 per prompt; the most is 1,048,576",
        ),
    ],
)
def test_what_would_never_end_is_refused(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()


def test_bounds_are_far_above_real_use() -> None:
    """Control: the paper's 256 branches, and a best of thousands."""
    assert ChunkBeamSearch(width=16, successors=16).branches == 256
    assert BestOfN(n=10_000).branches == 10_000
    assert SamplingParams(max_tokens=200_000, seed=2**100).max_tokens == 200_000


def test_a_call_is_bounded_like_a_config(proposer: HuggingFaceProposer) -> None:
    llm = W2SLLM(proposer=proposer, strategy="sampling", max_tokens=1)
    with pytest.raises(ConfigError, match="per prompt; the most is"):
        llm.invoke("a", n=30_000, strategy=BestOfN(n=30_000))


def bomb(levels: int) -> dict[str, Any]:
    values: Any = ["x"] * 9
    for _ in range(levels):
        values = [values] * 9
    return {"a": values}


def test_shared_parts_are_bounded() -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"aliases.* more than 1,000,000 values"):
        load_config({"proposer": {"model": "x", "config": bomb(30)}})
    assert time.monotonic() - began < 5, "without the check it would run for ever"
    assert load_config({"proposer": {"model": "x", "config": bomb(3)}}), "control"
    refuse_excess([str(i) for i in range(2_000_000)])  # control: large, but nothing is shared


def test_nesting_is_bounded() -> None:
    values: Any = "x"
    for _ in range(MAX_DEPTH - 3):
        values = {"a": values}
    assert load_config({"proposer": {"model": "x", "config": values}}), "control"
    for _ in range(5000):
        values = {"a": values}
    with pytest.raises(ConfigError, match="more than 100 mappings and lists"):
        load_config({"proposer": {"model": "x", "config": values}})
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(ConfigError, match="contains itself"):
        load_config({"proposer": {"model": "x", "config": endless}})


def test_many_faults_make_a_short_message() -> None:
    began = time.monotonic()
    for section in (
        {f"field{i}": i for i in range(20_000)},
        {"proposer": {"model": "x", **{f"field{i}": i for i in range(20_000)}}},
        {"proposer": "x", "generation": {"stop": [1] * 20_000}},
        {"proposer": "x", "guides": "x" * 10**6},
        {"proposer": {"model": "x" * 10**6, "type": "y" * 10**6}},
        {"x" * 10**6: 1},
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(section)
        assert len(str(caught.value)) < 12_000
    assert time.monotonic() - began < 10
    with pytest.raises(ConfigError, match=r"and 19,98\d more faults"):
        load_config({f"field{i}": i for i in range(20_000)})


# Scores.

RIGHT: list[Any] = [
    [1.0, 2.0, 3.0],
    (1, 2, 3),
    np.array([1.0, 2.0, 3.0]),
    torch.tensor([[1.0], [2.0], [3.0]]),
    torch.tensor([1.0, 2.0, 3.0]),
    torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16),
    {"a": 1.0, "b": 2.0, "c": 3.0}.values(),
    [Decimal(1), Fraction(2), np.int8(3)],
    [True, 2.0, 3.0],
]
WRONG: list[Any] = [
    "123",
    b"123",
    {1.0: "a", 2.0: "b", 3.0: "c"},
    {1.0: "a", 2.0: "b", 3.0: "c"}.keys(),
    {1.0, 2.0, 3.0},
    frozenset({1.0, 2.0, 3.0}),
    None,
    True,
    1.0,
    [1.0, 2.0],
    [1.0, 2.0, 3.0, 4.0],
    [1.0, 2.0, None],
    [1.0, 2.0, "3"],
    [1.0, 2.0, b"3"],
    [1.0, 2.0, 3j],
    [1.0, 2.0, float("nan")],
    [1.0, 2.0, [3.0]],
    [1.0, 2.0, {"score": 3.0}],
    [1.0, 2.0, 10**400],
    np.array(1.0),
    np.array([[1.0, 2.0, 3.0]]),
    np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]),
    np.array(["1", "2", "3"]),
    torch.tensor(1.0),
    torch.tensor([[1.0, 2.0, 3.0]]),
    torch.ones(3, 2),
    torch.tensor([1.0, 2.0, float("nan")]),
]


class Gives:
    """A scorer that returns the same whatever it is asked."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def score(self, hypotheses: Any) -> Any:
        return self.found


class GivesPairs:
    def __init__(self, found: Any) -> None:
        self.found = found

    def loglikelihoods(self, hypotheses: Any) -> Any:
        return self.found


def nodes() -> list[Hypothesis]:
    root = Hypothesis.root("p")
    return [root.extend(text) for text in ("a", "bb", "ccc")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("found", RIGHT, ids=repr)
def test_what_is_one_number_for_each(found: Any) -> None:
    one, two, three = as_scores(found, ["a", "bb", "ccc"], "x")
    assert (one, two, three) == (1.0, 2.0, 3.0)
    assert MixtureScorer([(Gives(found), 2.0)]).score(nodes()) == [2.0, 4.0, 6.0]  # pyright: ignore[reportArgumentType]
    assert CallableScorer(lambda p, r: found).score(nodes()) == [1.0, 2.0, 3.0]
    assert len(build_reward(lambda p, a: found).score("abc", "abc")) == 3


@pytest.mark.parametrize("found", WRONG, ids=repr)
def test_what_is_not_one_number_for_each(found: Any, proposer: HuggingFaceProposer) -> None:
    for ask in (
        lambda: as_scores(found, ["a", "bb", "ccc"], "x"),
        lambda: MixtureScorer([(Gives(found), 1.0)]).score(nodes()),  # pyright: ignore[reportArgumentType]
        lambda: CallableScorer(lambda p, r: found).score(nodes()),
        lambda: LogRatioScorer(GivesPairs(found)).score(nodes()),  # pyright: ignore[reportArgumentType]
        lambda: W2SLLM(
            proposer=proposer, scorer=Gives(found), strategy=BestOfN(n=3), max_tokens=6, seed=0
        ).invoke("The movie"),
    ):
        with pytest.raises(ScorerError) as caught:
            ask()
        assert len(str(caught.value)) < 1000


def test_infinite_scores_are_scores() -> None:
    """Control: a reward model says -inf to an answer that it cannot read."""
    assert as_scores([float("-inf")], ["a"], "x") == [float("-inf")]


def test_pairs_of_loglikelihoods() -> None:
    assert LogRatioScorer(GivesPairs([(1, 2), [3, 1], (0.0, 0)])).score(nodes()) == [-1, 2, 0]  # pyright: ignore[reportArgumentType]
    for found in ([(1, 2), (3, 1)], ["12", "34", "56"], [(1, 2, 3)] * 3, [(None, 1.0)] * 3):
        with pytest.raises(ScorerError, match="the guide pair GivesPairs"):
            LogRatioScorer(GivesPairs(found)).score(nodes())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", ["1", None, {"score": 1}, float("nan")])
def test_a_value_function(value: Any) -> None:
    def propose(ask: Any) -> list[Hypothesis]:
        return [
            h.extend(str(i), finish_reason="eos")
            for h in ask.hypotheses
            for i in range(ask.successors)
        ]

    with pytest.raises(ScorerError, match="value returned"):
        drive(BestOfN(n=2), propose, lambda h: value)
    assert drive(BestOfN(n=2), propose, lambda h: np.float32(len(h.response))).answer, "control"  # pyright: ignore[reportArgumentType]
