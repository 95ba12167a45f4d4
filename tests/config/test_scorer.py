"""Scorers by name in YAML: built, written again, told apart, described and refused."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml

import w2s_chains
from tests.helpers import tiny
from tests.helpers.configs import schema
from w2s_chains import (
    W2SLLM,
    BestOfN,
    CallableScorer,
    ChatW2S,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LoglikelihoodScorer,
    LogRatioScorer,
    MixtureScorer,
    RewardModelScorer,
    load,
)
from w2s_chains.comparison.checks import Models, check_study
from w2s_chains.comparison.study import make_study
from w2s_chains.config.files import load_config
from w2s_chains.core.contracts import key_of
from w2s_chains.errors import ConfigError, ModelNotFoundError
from w2s_chains.scorers import ScorerConfig

PROMPT = "The movie was great"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("judge")
    words = tiny.wordpiece_tokenizer()
    tiny.distilbert_classifier(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sections(tiny_folders: dict[str, Path]) -> dict[str, Any]:
    return {
        "proposer": {"model": str(tiny_folders["proposer"])},
        "guide": {name: str(tiny_folders[name]) for name in ("tuned", "untuned")},
        "strategy": {"type": "chunk_beam", "width": 2, "successors": 2, "chunk_tokens": 4},
        "generation": {"max_tokens": 8, "seed": 0},
    }


@pytest.fixture
def whole(sections: dict[str, Any], tiny_folders: dict[str, Path], judge: str) -> dict[str, Any]:
    """A mixture of everything."""
    other = {"tuned": str(tiny_folders["gpt2"]), "untuned": str(tiny_folders["untuned"])}
    parts = [
        {"weight": 1.0, "scorer": {"type": "log_ratio", "per_token": True}},
        {"weight": -0.5, "guide": other},
        {"weight": 2.0, "scorer": {"type": "reward_model", "model": judge, "positive": "POSITIVE"}},
        {"scorer": {"type": "loglikelihood"}},
    ]
    return {**sections, "scorer": {"type": "mixture", "parts": parts, "repetition_penalty": 0.5}}


def test_a_mixture_is_the_sum_of_its_parts(whole: dict[str, Any]) -> None:
    llm = W2SLLM.from_config(whole)
    scorer = llm.scorer
    assert isinstance(scorer, MixtureScorer)
    assert [part.weight for part in scorer.parts] == [1.0, -0.5, 2.0, 1.0]
    own, other, reward, likely = (part.scorer for part in scorer.parts)
    assert isinstance(own, LogRatioScorer)
    assert isinstance(other, LogRatioScorer)
    assert isinstance(reward, RewardModelScorer)
    assert isinstance(likely, LoglikelihoodScorer)
    assert own.pair is llm.guides
    assert likely.base is llm.proposer, "loaded once"
    assert isinstance(own.pair, GuidePair)
    assert isinstance(other.pair, GuidePair)
    assert other.pair.untuned is own.pair.untuned, "loaded once"
    [job] = llm.jobs([PROMPT])
    h = job.root.extend(" a b c a b c", finish_reason="length", n_tokens=9)
    expected = sum(w * p.score([h])[0] for p, w in zip(
        (own, other, reward, likely), (1.0, -0.5, 2.0, 1.0), strict=True))  # fmt: skip
    assert scorer.score([h]) == pytest.approx([expected - 0.5])
    assert isinstance(llm.invoke(PROMPT), str)


def test_yaml_round_trip(whole: dict[str, Any], tmp_path: Path) -> None:
    llm = W2SLLM.from_config(whole)
    path = tmp_path / "w2s.yaml"
    values = llm.to_config(path)
    assert yaml.safe_load(path.read_text()) == values
    copy = load(path)
    assert copy.to_config() == values
    assert copy._identifying_params == llm._identifying_params
    assert copy.invoke(PROMPT) == llm.invoke(PROMPT)
    written = values["scorer"]
    assert written["repetition_penalty"] == 0.5
    assert all(part.keys() >= {"weight", "scorer"} for part in written["parts"])
    assert ["guides" in part for part in written["parts"]] == [False, True, False, False]
    assert written["parts"][0]["scorer"] == {"type": "log_ratio", "per_token": True}
    schema().validate(values)


SCORERS: list[dict[str, Any]] = [
    {"type": "log_ratio"},
    {"type": "log_ratio", "base_weight": 0.25},
    {"type": "log_ratio", "repetition_penalty": 0.25},
    {"type": "log_ratio", "per_token": True},
    {"type": "loglikelihood"},
    {"type": "loglikelihood", "per_token": True},
    {"type": "reward_model", "positive": "POSITIVE"},
    {"type": "reward_model", "positive": "NEGATIVE"},
    {"type": "mixture", "parts": [{"weight": 1.0}]},
    {"type": "mixture", "parts": [{"weight": 2.0}]},
    {"type": "mixture", "parts": [{"weight": 1.0}, {"weight": 1.0}]},
    {"type": "mixture", "parts": [{"scorer": {"type": "loglikelihood"}}]},
    {"type": "mixture", "parts": [{"weight": 1.0}], "base_weight": 1.0},
]


def filled(scorer: dict[str, Any], judge: str) -> dict[str, Any]:
    return {**scorer, "model": judge} if scorer["type"] == "reward_model" else scorer


def test_every_scorer_has_a_key_of_its_own(sections: dict[str, Any], judge: str) -> None:
    """Equal configs share one; they are written as they are read, and say the same."""
    keys: list[str] = []
    for scorer in SCORERS:
        llm = W2SLLM.from_config({**sections, "scorer": filled(scorer, judge)})
        values = llm.to_config()
        again = W2SLLM.from_config(values)
        assert again._identifying_params == llm._identifying_params
        assert again.to_config() == values
        schema().validate(values)
        keys.append(str(llm._identifying_params["scorer"]))
    assert len(set(keys)) == len(SCORERS)


def test_parts_made_in_python_are_written(
    tiny_folders: dict[str, Path], judge: str, pair: GuidePair, proposer: HuggingFaceProposer
) -> None:
    named = {name: str(path) for name, path in tiny_folders.items()}
    large = HuggingFaceProposer.from_pretrained(named["proposer"])
    first = GuidePair.from_pretrained(named["tuned"], named["untuned"])
    second = GuidePair.from_pretrained(named["gpt2"], named["untuned"], template="A {prompt}")
    mixture = MixtureScorer(
        [
            (LogRatioScorer(first), 1.0),
            (LogRatioScorer(second, per_token=True), -0.5),
            (RewardModelScorer.from_pretrained(judge, positive=1), 0.5),
        ],
        proposer=large,
        base_weight=0.1,
    )
    llm = W2SLLM(proposer=large, scorer=mixture, max_tokens=6, seed=1, strategy=BestOfN(n=3))
    values = llm.to_config()
    assert "guide" not in values
    again = W2SLLM.from_config(values)
    assert again._identifying_params == llm._identifying_params
    assert again.invoke(PROMPT) == llm.invoke(PROMPT)
    steered = llm.model_copy(update={"guide": first})
    assert "guide" not in steered.to_config()["scorer"]["parts"][0], "it is that of the section"
    wrong: list[tuple[Any, str]] = [
        (MixtureScorer([(LogRatioScorer(pair), 1.0)]), "tuned guide .* was built by hand"),
        (MixtureScorer([(mixture, 1.0)]), "a part of a mixture is a mixture itself"),
        (LoglikelihoodScorer(proposer), "another proposer than the one of this model"),
    ]
    for scorer, told in wrong:
        with pytest.raises(ConfigError, match=told):
            llm.model_copy(update={"scorer": scorer}).to_config()


def test_guides_of_parts_use_their_chat_templates_in_a_chat_model(whole: dict[str, Any]) -> None:
    chat = ChatW2S.from_config(whole)
    assert isinstance(chat.scorer, MixtureScorer)
    for part in chat.scorer.parts[:2]:
        assert part.scorer.pair.tuned.tokenizer.chat is not None
    assert ChatW2S.from_config(chat.to_config())._identifying_params == chat._identifying_params
    llm = W2SLLM.from_config(whole)
    assert isinstance(llm.scorer, MixtureScorer)
    assert llm.scorer.parts[1].scorer.pair.tuned.tokenizer.chat is None, "control"


def test_given_guides_are_scored_with(sections: dict[str, Any], pair: GuidePair) -> None:
    llm = W2SLLM.from_config(sections, guide=pair)  # pyright: ignore[reportCallIssue]
    assert isinstance(llm.scorer, LogRatioScorer)
    assert llm.scorer.pair is pair


def test_models_are_loaded_once(
    whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, judge: str
) -> None:
    loaded: list[str] = []
    from_spec = HuggingFaceGuide.from_spec.__func__
    monkeypatch.setattr(
        "w2s_chains.backend.loading.local_model.LocalModel.from_spec",
        classmethod(lambda cls, spec: loaded.append(Path(spec.model).name) or from_spec(cls, spec)),
    )
    W2SLLM.from_config(whole)
    assert sorted(loaded) == ["gpt2", "proposer", "tuned", "untuned"]
    loaded.clear()
    study = make_study({"a": whole, "b": whole}, None, prompts=["x"])
    models = Models()
    for config in study.configs.values():
        models.llm(config)
    assert sorted(loaded) == ["gpt2", "proposer", "tuned", "untuned"]


class Exclaiming(ScorerConfig):
    """A function as a scorer of an installed package."""

    type: Literal["exclaiming"] = "exclaiming"
    weight: float = 1.0

    def build(self, guides: Any) -> CallableScorer:
        def count(prompts: Any, responses: list[str]) -> list[float]:
            return [self.weight * response.count("!") for response in responses]

        return CallableScorer(count, spec=self)


def test_a_function_by_an_entry_point(
    sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [EntryPoint("exclaiming", "tests.config.test_scorer:Exclaiming", "w2s_chains.scorers")]
    monkeypatch.setattr(
        "w2s_chains.core.slots.entry_points",
        lambda group: points if group == "w2s_chains.scorers" else [],
    )
    own = {"type": "exclaiming", "weight": 2.0}
    for scorer in (own, {"type": "mixture", "parts": [{"scorer": own, "weight": 1.0}]}):
        llm = W2SLLM.from_config({**sections, "scorer": scorer})
        [job] = llm.jobs([PROMPT])
        assert job.scorer is not None
        assert job.scorer.score([job.root.extend(" a! b!")]) == [4.0]
        values = llm.to_config()
        assert values["scorer"] == scorer
        assert W2SLLM.from_config(values)._identifying_params == llm._identifying_params
        other = json.loads(json.dumps(values).replace("2.0", "3.0"))
        assert W2SLLM.from_config(other)._identifying_params != llm._identifying_params, "control"


# What is refused.


@pytest.mark.parametrize(
    ("scorer", "told"),
    [
        ("{type: mixtur, parts: []}", "5: scorer: unknown scorer type 'mixtur'; did you mean 'mi"),
        ("{type: mixture}", "5: scorer.parts: this field is missing"),
        ("{type: mixture, parts: []}", "5: scorer.parts: .*at least 1 item"),
        ("{type: mixture, parts: [{}], part: []}", "5: scorer.part: unknown field; did you mean"),
        ("{type: mixture, parts: [{wait: 1}]}",
         "5: scorer.parts.0.wait: unknown field.* \\(choices: guides, scorer, weight\\)"),
        ("{type: mixture, parts: [{weight: .inf}]}", "5: scorer.parts.0.weight: .*finite number"),
        ("{type: mixture, parts: [{}, {weight: x}]}", "5: scorer.parts.1.weight: .*valid number"),
        ("{type: mixture, parts: [{scorer: {type: nope}}]}",
         "5: scorer.parts.0.scorer: unknown scorer type 'nope' \\(choices: llm_judge, log_r"),
        ("{type: mixture, parts: [{scorer: {type: loglikelihood, per_tokn: 1}}]}",
         "5: scorer.parts.0.scorer.per_tokn: unknown field; did you mean 'per_token'"),
        ("{type: mixture, parts: [{scorer: {type: mixture, parts: [{}]}}]}",
         "5: scorer.parts.0.scorer: a part of a mixture is a mixture itself"),
        ("{type: mixture, parts: [{guide: {tuned: a}}]}",
         "5: scorer.parts.0.guide.untuned: this field is missing"),
        ("{type: mixture, parts: [{guide: {tuned: a, untuned: b, chatt: true}}]}",
         "5: scorer.parts.0.guide.chatt: unknown field; did you mean 'chat'"),
        ("{type: log_ratio, repetition_penalty: -1}", "5: scorer.repetition_penalty: .*or equal"),
        ("{type: log_ratio, base_wait: 1}", "5: scorer.base_wait: unknown field; did you mean 'ba"),
        ("{type: reward_model}", "5: scorer.model: this field is missing"),
        ("{type: reward_model, model: x, template: none}", "5: scorer.template: .*'{answer}'"),
        ("{type: reward_model, model: x, partial: perhaps}", "5: scorer.partial: .*valid boolean"),
        ("{type: reward_model, model: x, chat: true, template: '{answer}'}",
         "5: scorer: chat renders prompt and answer by itself"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line(tmp_path: Path, scorer: str, told: str) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(f"proposer:\n  model: x\n\nguide: {{tuned: a, untuned: b}}\nscorer: {scorer}\n")
    with pytest.raises(ConfigError, match=rf"^{path}:{told}") as caught:
        load_config(path)
    assert len(str(caught.value).splitlines()) == 1, "what follows from a fault is not told"
    fine = "{type: mixture, parts: [{weight: 2}]}"
    path.write_text(path.read_text().replace(scorer, fine))
    assert load_config(path), "control"


def test_what_is_missing_is_told_before_anything_is_loaded(
    sections: dict[str, Any], judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_loading(*arguments: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("w2s_chains.backend.loading.local_model.LocalModel.from_spec", no_loading)
    wanted: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"type": "mixture", "parts": [{}]}, ConfigError, "'mixture' needs guides"),
        ({"type": "reward_model", "model": judge}, ConfigError, "has the labels"),
        ({"type": "reward_model", "model": str(tmp_path / "no")}, ModelNotFoundError, "neither a"),
    ]
    lone = {name: own for name, own in sections.items() if name != "guide"}
    for scorer, kind, told in wanted:
        mixed = {"type": "mixture", "parts": [{"scorer": scorer}]}
        for own in [scorer, mixed][: 1 if scorer["type"] == "mixture" else 2]:
            with pytest.raises(kind, match=told):
                W2SLLM.from_config({**lone, "scorer": own})
            with pytest.raises(kind, match=told):
                check_study(make_study({"a": {**lone, "scorer": own}}, None, prompts=["x"]), "x")
    with pytest.raises(AssertionError):  # control
        W2SLLM.from_config({**lone, "scorer": {"type": "loglikelihood"}})


# The schema.


def test_the_schema_takes_and_refuses(whole: dict[str, Any]) -> None:
    schema().validate(whole)
    assert schema().is_valid({**whole, "scorer": {"type": "mixture", "parts": [{}]}})
    part = {"weight": 1.0}
    wrong: list[Any] = [
        {"type": "mixture"},
        {"type": "mixture", "parts": []},
        {"type": "mixture", "parts": [{"wait": 1}]},
        {"type": "mixture", "parts": [{**part, "scorer": {"type": "nope"}}]},
        {"type": "mixture", "parts": [{**part, "scorer": {"type": "mixture", "parts": [part]}}]},
        {"type": "mixture", "parts": [{**part, "guide": {"tuned": "a"}}]},
        {"type": "reward_model"},
        {"type": "loglikelihood", "per_token": "x"},
        {"type": "log_ratio", "repetition_penalty": -1},
    ]
    for scorer in wrong:
        values = {**whole, "scorer": scorer}
        with pytest.raises(jsonschema.ValidationError):
            schema().validate(values)
        with pytest.raises(ConfigError):
            load_config(values)


def test_the_schema_explains_the_scorers() -> None:
    published = Path(w2s_chains.__file__).with_name("w2s.schema.json")
    kinds = json.loads(published.read_text())["$defs"]
    names = {
        "LogRatioConfig",
        "LoglikelihoodConfig",
        "RewardModelConfig",
        "MixtureConfig",
        "MixturePart",
    }
    assert names <= set(kinds)
    assert kinds["MixtureConfig"]["required"] == ["type", "parts"]
    assert "partial" in kinds["RewardModelConfig"]["properties"]


def test_described_by_what_they_score_with(pair: GuidePair, proposer: HuggingFaceProposer) -> None:
    same = [key_of(MixtureScorer([(LogRatioScorer(pair), 1.0)])) for _ in range(2)]
    assert same[0] == same[1]
    others = [
        MixtureScorer([(LogRatioScorer(pair.swapped()), 1.0)]),
        MixtureScorer([(LogRatioScorer(pair), 1.0)], proposer=proposer, base_weight=1.0),
        LogRatioScorer(pair),
        LoglikelihoodScorer(proposer),
        LoglikelihoodScorer(
            HuggingFaceProposer(proposer.lm.model, proposer.tokenizer.hf_tokenizer)
        ),
    ]
    assert len({same[0], *map(key_of, others)}) == 6
