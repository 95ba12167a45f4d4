"""The constructor: parts as names, mappings, configs or ready objects, with the keys of YAML."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.llms import PROMPT
from w2s_chains import (
    W2SLLM,
    BaseGuidePair,
    ChatW2S,
    ChunkBeamSearch,
    ConfigError,
    GuidePair,
    Guides,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioConfig,
    LogRatioScorer,
    Model,
    Proposer,
    Sampling,
    SamplingParams,
    Scorer,
    W2SError,
    load,
)
from w2s_chains.core.contracts import key_of

BEAM = ChunkBeamSearch(width=2, successors=2, chunk_tokens=3)


@pytest.fixture
def names(tiny_folders: dict[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in tiny_folders.items()}


@pytest.fixture
def settings() -> dict[str, Any]:
    return {"strategy": BEAM, "max_tokens": 6, "temperature": 0.7, "seed": 0}


def test_every_way_to_name_the_parts_makes_the_same_model(
    names: dict[str, str], settings: dict[str, Any]
) -> None:
    tuned, untuned = names["tuned"], names["untuned"]
    proposer = HuggingFaceProposer.from_pretrained(names["proposer"])
    mapped: dict[str, Any] = {**settings, "strategy": {"type": "chunk_beam", **BEAM.model_dump()}}
    made = [
        W2SLLM(proposer=Model(names["proposer"]), guides=Guides(tuned, untuned), **settings),
        W2SLLM(names["proposer"], guides={"tuned": tuned, "untuned": untuned}, **settings),
        W2SLLM(
            proposer={"model": Path(names["proposer"])},
            guides=Guides(tuned=Model(tuned), untuned=Model(untuned)),
            scorer="log_ratio",
            **mapped,
        ),
        W2SLLM(proposer=proposer, guides=GuidePair.from_pretrained(tuned, untuned), **settings),
        W2SLLM(proposer=proposer, guides=Guides(tuned, untuned), scorer=LogRatioConfig(),
               **settings),
        W2SLLM.from_config({
            "proposer": {"model": names["proposer"]},
            "guides": {"tuned": tuned, "untuned": untuned},
            "strategy": BEAM.model_dump(),
            "generation": {"max_tokens": 6, "temperature": 0.7, "seed": 0},
        }),
    ]  # fmt: skip
    answers = {llm.invoke(PROMPT) for llm in made}
    assert len(answers) == 1
    assert len({str(llm._identifying_params) for llm in made}) == 1
    other = W2SLLM(names["proposer"], guides=Guides(untuned, tuned), **settings)
    assert str(other._identifying_params) != str(made[0]._identifying_params), "control"


def test_guides_alone_mean_the_log_ratio(names: dict[str, str], pair: GuidePair) -> None:
    llm = W2SLLM(names["proposer"], guides=pair)
    assert isinstance(llm.scorer, LogRatioScorer)
    assert llm.scorer.pair is llm.guides is pair
    steered = W2SLLM(names["proposer"], guides=pair, scorer=None)
    assert (steered.scorer, steered.guides) == (None, pair)
    scored = W2SLLM(names["proposer"], scorer=LogRatioScorer(pair))
    assert scored.guides is pair
    alone = W2SLLM(names["proposer"], strategy="sampling")
    assert (alone.scorer, alone.guides, alone.strategy) == (None, None, Sampling())


def test_guides_that_are_the_scorers_change_with_it(
    proposer: HuggingFaceProposer, pair: GuidePair, foreign_pair: GuidePair
) -> None:
    llm = W2SLLM(proposer=proposer, guides=pair)
    copy = llm.model_copy(update={"scorer": LogRatioScorer(foreign_pair)})
    assert copy.guides is foreign_pair
    assert llm.guides is not foreign_pair
    copy.scorer = None
    assert copy.guides is None


def test_a_chat_model_reads_chats(names: dict[str, str]) -> None:
    guides = Guides(names["tuned"], names["untuned"])
    chat = ChatW2S(proposer=Model(names["proposer"]), guides=guides, max_tokens=4, seed=0)
    assert chat.proposer.tokenizer.chat is not None
    assert isinstance(chat.guides, GuidePair)
    assert isinstance(chat.guides.tuned, HuggingFaceGuide)
    assert chat.guides.tuned.tokenizer.chat is not None
    plain = ChatW2S(proposer=Model(names["proposer"], chat=False), guides=guides)
    assert plain.proposer.tokenizer.chat is None
    assert W2SLLM(Model(names["proposer"]), guides=guides).proposer.tokenizer.chat is None
    again = load(chat.to_config())
    assert isinstance(again, ChatW2S)
    assert again.to_config() == chat.to_config()
    assert again.invoke("hi").content == chat.invoke("hi").content


@pytest.mark.parametrize("kind", [W2SLLM, ChatW2S])
def test_what_is_wrong_is_told_before_a_model_is_loaded(
    kind: type[W2SLLM], names: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_loading(*args: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("w2s_chains.backend.loading.local_model.LocalModel.from_spec", no_loading)
    model = names["proposer"]
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("proposer: this field is missing", {}),
        ("unknown field 'max_token'; did you mean 'max_tokens'", {"max_token": 3}),
        ("temperature: .*greater than or equal to 0", {"temperature": -1}),
        ("strategy: unknown strategy type 'beam'", {"strategy": "beam"}),
        ("strategy.width: .*greater than or equal to 1", {"strategy": {"type": "chunk_beam",
                                                                       "width": 0}}),
        ("guides.untuned: this field is missing", {"guides": {"tuned": model}}),
        ("guides: unknown guide preset 'zefyr'; did you mean 'zephyr'", {"guides": "zefyr"}),
        ("guides.tuned.dvice: unknown field; did you mean 'device'",
         {"guides": {"tuned": {"model": model, "dvice": "cpu"}, "untuned": model}}),
        ("scorer 'log_ratio' needs guides", {"scorer": "log_ratio"}),
        ("scorer: unknown scorer type 'logratio'", {"scorer": "logratio"}),
        ("guide is the old name of guides", {"guide": "zephyr", "guides": "zephyr"}),
    ]  # fmt: skip
    for told, fields in wrong:
        given = fields if told.startswith("proposer") else {"proposer": model, **fields}
        with pytest.raises(ConfigError, match=told):
            kind(**given)
    with pytest.raises(AssertionError, match="a model is loaded"):
        kind(model)  # control


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ChunkBeamSearch(width=0), "ChunkBeamSearch: width: .*equal to 1"),
        (
            lambda: ChunkBeamSearch(widht=2),  # pyright: ignore[reportCallIssue]
            "unknown field; did you mean 'width'",
        ),
        (lambda: Sampling(n=2), "n: unknown field"),  # pyright: ignore[reportCallIssue]
        (lambda: SamplingParams(temperature=-1), "temperature: .*equal to 0"),
        (lambda: Model(""), "model: .*at least 1 character"),
        (
            lambda: Model("x", dvice="cpu"),  # pyright: ignore[reportCallIssue]
            "dvice: unknown field; did you mean 'device'",
        ),
        (lambda: Model("x", template="x"), r"has no '\{prompt\}'"),
        (
            lambda: Guides("a", "b", chatt=True),  # pyright: ignore[reportCallIssue]
            "chatt: unknown field; did you mean 'chat'",
        ),
        (lambda: Guides("a", {"modle": "b"}), "untuned.modle: .*did you mean 'model'"),
        (lambda: GuidePair.from_pretrained("a", "b", tempalte="x"), "did you mean 'template'"),
        (lambda: GuidePair.from_preset("zefyr"), "did you mean 'zephyr'"),
        (lambda: GuidePair.from_prompts("x", "a {prompt}", "a {prompt}"), "same way"),
        (
            lambda: HuggingFaceProposer.from_pretrained(
                "x",
                dtyp="float32",  # pyright: ignore[reportCallIssue]
            ),
            "did you mean 'dtype'",
        ),
        (lambda: LogRatioConfig(base_weight=float("nan")), "base_weight: .*finite"),
    ],
)
def test_every_wrong_value_is_a_config_error(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
    assert issubclass(ConfigError, W2SError)
    assert issubclass(ConfigError, ValueError)


def test_the_old_ways_still_work_and_warn(names: dict[str, str], pair: GuidePair) -> None:
    tuned, untuned = names["tuned"], names["untuned"]
    today = W2SLLM(
        Model(names["proposer"], template="A {prompt}"),
        guides=Guides(tuned=Model(tuned, template="B {prompt}"), untuned=untuned),
        max_tokens=5,
    )
    with pytest.warns(DeprecationWarning, match=r"write W2SLLM\(proposer=Model"):
        flat = W2SLLM.from_pretrained(
            names["proposer"], tuned=tuned, untuned=untuned, proposer_template="A {prompt}",
            tuned_template="B {prompt}", max_tokens=5,
        )  # fmt: skip
    assert flat._identifying_params == today._identifying_params
    with pytest.warns(DeprecationWarning, match="now called guides"):
        old = W2SLLM(names["proposer"], guide=pair)  # pyright: ignore[reportCallIssue]
    with pytest.warns(DeprecationWarning, match="now called guides"):
        assert old.guide is pair
    config = {
        "proposer": {"model": names["proposer"]},
        "guide": {"tuned": tuned, "untuned": untuned},
    }
    assert "guides" in W2SLLM.from_config(config).to_config()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert today.to_config()  # control: the new ways do not warn


@pytest.mark.parametrize("role", ["proposer", "tuned", "untuned", "guide"])
def test_no_model_is_silently_overridden(role: str) -> None:
    """``proposer_model="b"`` loaded b without a word, whatever was given first."""
    option = f"{role}_model"
    with pytest.raises(ConfigError, match=f"{option}='b' names a model that another argument"):
        W2SLLM.from_pretrained("a", tuned="c", untuned="d", **{option: "b"})


class Shortest:
    """A scorer with nothing but a method ``score``."""

    def score(self, hypotheses: list[Hypothesis]) -> list[float]:
        return [-float(len(h.response)) for h in hypotheses]


class Sliced(Shortest, Scorer):
    partial = False


def test_an_object_with_the_one_method_is_a_part(proposer: HuggingFaceProposer) -> None:
    """Others need not subclass a contract; what they do not declare, its defaults say."""
    short = Shortest()
    assert isinstance(short, Scorer)
    assert not isinstance(short, Proposer | BaseGuidePair)
    llm = W2SLLM(proposer=proposer, scorer=short, strategy=BEAM, max_tokens=5, seed=0)
    assert llm.scorer is short
    assert isinstance(llm.invoke(PROMPT), str)
    seen = Scorer.of(short)
    assert (seen.partial, seen.pair, seen.spec) == (True, None, None)
    assert key_of(short) != key_of(Shortest())
    with pytest.raises(ConfigError, match=r"scorer \(Shortest\) was built by hand"):
        seen.to_config()
    whole = W2SLLM(proposer=proposer, scorer=Sliced(), strategy=BEAM)
    with pytest.raises(ConfigError, match="judges whole answers only"):
        whole.invoke(PROMPT)


@pytest.mark.parametrize(
    "config",
    [
        {"proposer": {"model": "a", "base": "b"}},
        {"proposer": "a", "model": "b"},
        {"proposer": "a", "guide": "zephyr", "guides": "tulu"},
        {"proposer": "a", "guides": {"preset": "zephyr", "model": "x"}},
        {"proposer": "a", "guides": {"preset": "zephyr", "base": "x", "adapter": "y"}},
        {"proposer": "a", "guides": {"tuned": "a", "untuned": "b", "base": "c"}},
        {"proposer": "a", "guides": {"tuned": "a", "untuned": "b", "model": "c"}},
        {"proposer": "a", "guides": {"base": "a", "adapter": "b", "model": "c"}},
        {"proposer": "a", "guides": {"model": "a", "tuned_template": "x {prompt}", "base": "c"}},
        {"proposer": "a", "scorer": {"type": "mixture",
                                     "parts": [{"guide": "zephyr", "guides": "tulu"}]}},
    ],
    ids=str,
)  # fmt: skip
def test_no_model_of_a_config_is_silently_overridden(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="unknown field"):
        W2SLLM.from_config(config)
    with pytest.raises(ConfigError, match="unknown field"):
        W2SLLM(**config) if "guide" not in config else W2SLLM.from_config(config)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Guides("a", "b", model="c"),  # pyright: ignore[reportCallIssue]
        lambda: Guides("a", "b", adapter="c"),  # pyright: ignore[reportCallIssue]
        lambda: Model("a", base="c"),  # pyright: ignore[reportCallIssue]
        lambda: GuidePair.from_adapter("a", "b", model="c"),
        lambda: GuidePair.from_prompts("a", "x {prompt}", "y {prompt}", tuned_model="c"),
        lambda: GuidePair.from_preset("zephyr", model="c"),
        lambda: HuggingFaceProposer.from_pretrained("a", base="c"),  # pyright: ignore[reportCallIssue]
        lambda: W2SLLM.from_config({"proposer": "a"}, proposer_model="c"),  # pyright: ignore[reportCallIssue]
        lambda: W2SLLM.from_pretrained("a", guides_model="c"),
        lambda: W2SLLM.from_pretrained("a", proposer_type="c"),
        lambda: W2SLLM.from_pretrained("a", tuned="b", untuned="c", guides="zephyr"),
        lambda: W2SLLM.from_pretrained("a", tuned="b", untuned="c", guide="zephyr"),
    ],
)
def test_a_second_model_in_python_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"unknown (field|option)|give one of them"):
        make()
