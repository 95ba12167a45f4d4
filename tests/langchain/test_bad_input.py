"""Bad input: one clear error with value, limit and remedy, before any model runs.

The list is item 6 of the issue that the core was built for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import tiny
from tests.helpers.llms import BadScorer, forwards, nan_if_bad
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceProposer,
    LogRatioScorer,
    Sampling,
)
from w2s_chains.errors import (
    ConfigError,
    ModelNotFoundError,
    PromptError,
    ScorerError,
    UnsupportedModelError,
    W2SError,
)

GOOD = "The movie was great"


@pytest.fixture
def llm(proposer: HuggingFaceProposer, scorer: LogRatioScorer) -> W2SLLM:
    return W2SLLM(
        proposer=proposer, scorer=scorer, seed=0, max_tokens=8,
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=4),
    )  # fmt: skip


def refused(
    error: type[Exception], call: Callable[[], Any], parts: Sequence[str], llm: W2SLLM | None = None
) -> str:
    """The one line with which a call is refused; it has all parts, and no model has run."""
    before = forwards(llm) if llm else 0
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert isinstance(caught.value, W2SError)
    assert "\n" not in message
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
    if llm:
        assert forwards(llm) == before, "a model has run"
    return message


def ways_to_call(llm: W2SLLM, **options: Any) -> list[Callable[[], Any]]:
    return [
        lambda: llm.invoke(GOOD, **options),
        lambda: llm.batch([GOOD, GOOD], **options),
        lambda: list(llm.stream(GOOD, **options)),
        lambda: llm.bind(**options).invoke(GOOD),
        lambda: llm.generate([GOOD], **options),
    ]


# Values out of range: in a call, in the constructor, in from_pretrained, in a config, in a file.

OUT_OF_RANGE = [
    ({"n": 0}, ["n:", "greater than or equal to 1", "0"]),
    ({"max_tokens": 0}, ["max_tokens", "greater than or equal to 1", "0"]),
    ({"max_tokens": "many"}, ["max_tokens", "valid integer", "many"]),
    ({"temperature": -0.1}, ["temperature", "greater than or equal to 0", "-0.1"]),
    ({"temperature": float("nan")}, ["temperature", "finite", "nan"]),
    ({"temperature": float("inf")}, ["temperature", "finite", "inf"]),
    ({"top_p": 0.0}, ["top_p", "greater than or equal to 0.000001", "0.0"]),
    ({"top_p": 1.1}, ["top_p", "less than or equal to 1", "1.1"]),
    ({"top_k": 0}, ["top_k", "greater than or equal to 1", "0"]),
    ({"repetition_penalty": 0.0}, ["repetition_penalty", "greater than or equal to 0.000001", "0"]),
    ({"stop": [""]}, ["stop", "at least 1 character", "''"]),
    ({"stop": [3]}, ["stop", "valid string", "3"]),
    ({"seed": 0.5}, ["seed", "integer", "0.5"]),
    (
        {"strategy": {"type": "chunk_beam", "width": 0}},
        ["strategy.width", "greater than or equal to 1", "0"],
    ),
    (
        {"strategy": {"type": "chunk_beam", "successors": -1}},
        ["strategy.successors", "greater than or equal to 1", "-1"],
    ),
    (
        {"strategy": {"type": "chunk_beam", "chunk_tokens": 0}},
        ["strategy.chunk_tokens", "greater than or equal to 1", "0"],
    ),
    (
        {"strategy": {"type": "best_of_n", "n": 0}},
        ["strategy.n", "greater than or equal to 1", "0"],
    ),
    (
        {"strategy": {"type": "emulated_fine_tuning", "beta": float("inf")}},
        ["strategy.beta", "finite", "inf"],
    ),
    (
        {"strategy": {"type": "chunk_beam", "return_best": "worst"}},
        ["strategy.return_best", "'beam' or 'finished'", "worst"],
    ),
    (
        {"strategy": {"type": "chunk_bean"}},
        ["strategy", "chunk_bean", "did you mean 'chunk_beam'", "best_of_n"],
    ),
    (
        {"strategy": {"type": "chunk_beam", "widht": 2}},
        ["strategy.widht", "did you mean 'width'", "successors"],
    ),
    ({"strategy": {"width": 2}}, ["strategy", "'type'", "chunk_beam", "best_of_n"]),
    ({"strategy": "best_of_m"}, ["strategy", "did you mean 'best_of_n'", "chunk_beam"]),
    ({"strategy": 3}, ["strategy", "SearchStrategy", "3"]),
]


@pytest.mark.parametrize(("fields", "parts"), OUT_OF_RANGE, ids=lambda v: str(v)[:40])
def test_a_value_out_of_range(
    llm: W2SLLM, tiny_folders: dict[str, Path], tmp_path: Path, fields: Any, parts: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def no_loading(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model is loaded")

    for call in ways_to_call(llm, **fields):
        refused(ConfigError, call, parts, llm)
    refused(ConfigError, lambda: W2SLLM(proposer=llm.proposer, **fields), parts, llm)
    monkeypatch.setattr("w2s_chains.backend.loading.local_model.LocalModel.from_spec", no_loading)
    model = str(tiny_folders["proposer"])
    refused(ConfigError, lambda: W2SLLM.from_pretrained(model, **fields), parts)
    [(name, value)] = fields.items()
    config = {"proposer": {"model": model}}
    refused(ConfigError, lambda: W2SLLM.from_config(config, **fields), parts)
    section = {"strategy": value} if name == "strategy" else {"generation": fields}
    refused(ConfigError, lambda: W2SLLM.from_config({**config, **section}), parts)
    file = tmp_path / "w2s.yaml"
    file.write_text(yaml.safe_dump({**config, **section}, sort_keys=False))
    message = refused(ConfigError, lambda: W2SLLM.from_config(file), parts)
    # The file, and the line in it, of the value or of the section that it is missing from.
    place = re.match(rf"{re.escape(str(file))}:(\d+): ", message)
    assert place is not None, message
    line = int(place[1])
    written = file.read_text().splitlines()[line - 1]
    assert message.split(": ")[1].split(".")[-1] in written or "  - " in written


def test_values_in_range_pass(llm: W2SLLM) -> None:
    """Control: the limits themselves are fine."""
    fine: dict[str, Any] = {
        "n": 1, "max_tokens": 1, "temperature": 0, "top_p": 1.0, "top_k": 1,
        "repetition_penalty": 0.5, "stop": [], "strategy": {"type": "chunk_beam", "width": 1},
    }  # fmt: skip
    for name, value in fine.items():
        assert isinstance(llm.invoke(GOOD, **{name: value}), str)


@pytest.mark.parametrize("strategy", [ChunkBeamSearch, BestOfN])
@pytest.mark.parametrize("field", ["width", "successors", "chunk_tokens", "n"])
def test_a_strategy_object_out_of_range(strategy: Any, field: str) -> None:
    if field in strategy.model_fields:
        with pytest.raises(ValueError, match=rf"{field}: .*greater than or equal to 1.*got 0"):
            strategy(**{field: 0})


def test_misspelt_arguments(llm: W2SLLM, tiny_folders: dict[str, Path]) -> None:
    for call in ways_to_call(llm, max_token=3):
        refused(ConfigError, call, ["'max_token'", "did you mean 'max_tokens'", "top_p"], llm)
    for call in ways_to_call(llm, proposer=llm.proposer):
        refused(ConfigError, call, ["'proposer'", "of a call"], llm)
    refused(
        ConfigError,
        lambda: W2SLLM(proposer=llm.proposer, temprature=1.0),  # pyright: ignore[reportCallIssue]
        ["temprature", "did you mean 'temperature'"],
    )
    model = str(tiny_folders["proposer"])
    for name, meant in {
        "temprature": "temperature",
        "proposer_tamplate": "proposer_template",
        "guide_chatt": "guide_chat",
        "tuned_device_mapp": "tuned_device_map",
        "untuned_dtyp": "untuned_dtype",
    }.items():
        options = {"tuned": model, "untuned": model, name: 1}
        call = lambda options=options: W2SLLM.from_pretrained(model, **options)  # noqa: E731
        refused(ConfigError, call, [repr(name), f"did you mean '{meant}'"])
    config = {"proposer": {"model": model}}
    refused(
        ConfigError,
        lambda: W2SLLM.from_config(config, temprature=1),  # pyright: ignore[reportCallIssue]
        ["'temprature'", "did you mean 'temperature'"],
    )


def test_with_return_exceptions_a_bad_call_is_the_outcome_of_each(llm: W2SLLM) -> None:
    before = forwards(llm)
    ways: list[dict[str, Any]] = [
        {"temperature": -1}, {"max_token": 3}, {"strategy": {"type": "x"}},
    ]  # fmt: skip
    for options in ways:
        outcomes: list[Any] = llm.batch([GOOD, "x"], return_exceptions=True, **options)
        assert [type(outcome) for outcome in outcomes] == [ConfigError, ConfigError]
    assert forwards(llm) == before


# Prompts.


def unharmed(llm: W2SLLM, bad: str, error: type[Exception], parts: Sequence[str]) -> None:
    """A prompt is refused however it comes, and its neighbours get their answers."""
    good = [llm.invoke(GOOD), llm.invoke("x")]
    refused(error, lambda: llm.invoke(bad), parts, llm)
    refused(error, lambda: list(llm.stream(bad)), parts, llm)
    refused(error, lambda: llm.batch([GOOD, bad, "x"]), parts, llm)
    outcomes: list[Any] = llm.batch([GOOD, bad, "x"], return_exceptions=True)
    assert outcomes[::2] == good
    assert isinstance(outcomes[1], error)
    assert all(part in str(outcomes[1]) for part in parts)


def test_a_prompt_beyond_the_proposers_context(llm: W2SLLM) -> None:
    count = len(llm.proposer.tokenizer.encode("word " * 200))
    long = "word " * 200
    assert count + 8 > 512
    unharmed(
        llm, long, PromptError,
        [f"{count} tokens", "8 more", "512 positions", "proposer", "shorten the prompt"],
    )  # fmt: skip
    # The limit itself is fine, one more is not.
    fits = 512 - len(llm.proposer.tokenizer.encode(GOOD))
    sampling = llm.bind(strategy=Sampling())
    assert sampling.invoke(GOOD, max_tokens=fits)
    refused(
        PromptError, lambda: sampling.invoke(GOOD, max_tokens=fits + 1), [f"at most {fits}"], llm
    )


def test_a_prompt_beyond_a_guides_context(llm: W2SLLM, pair: GuidePair) -> None:
    short = tiny.llama(320, seed=1, max_position_embeddings=40)
    from w2s_chains import HuggingFaceGuide

    guides = [HuggingFaceGuide(short, tiny.byte_tokenizer()) for _ in range(2)]
    llm.scorer = LogRatioScorer(GuidePair(*guides))
    unharmed(llm, "word " * 30, PromptError, ["40 positions", "guide", "shorten"])


def test_an_empty_prompt_without_start_token(llm: W2SLLM) -> None:
    unharmed(llm, "", PromptError, ["empty", "start token", "at least one word"])


def test_an_empty_prompt_with_start_token_is_fine(pair: GuidePair) -> None:
    tokenizer = tiny.byte_tokenizer(bos=True, name="with start")
    proposer = HuggingFaceProposer(tiny.llama(320), tokenizer)
    llm = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=5, seed=0)
    assert isinstance(llm.invoke(""), str)
    # With text in the template nothing is empty, either.
    bare = HuggingFaceProposer(tiny.llama(320), tiny.byte_tokenizer(), template="Review:{prompt}")
    llm = W2SLLM(proposer=bare, strategy=Sampling(), max_tokens=5, seed=0)
    assert isinstance(llm.invoke(""), str)


def test_an_input_of_another_type(llm: W2SLLM) -> None:
    for wrong in (3, None, {"a": 1}):
        with pytest.raises(ValueError, match="Invalid input type"):
            llm.invoke(wrong)  # pyright: ignore[reportArgumentType]


# Parts that do not fit together.


def test_emulated_fine_tuning_across_vocabularies(llm: W2SLLM, foreign_pair: GuidePair) -> None:
    llm.scorer = LogRatioScorer(foreign_pair)
    for strategy in (EmulatedFineTuning(beta=1.0), ChunkBeamSearch(steering=0.5)):
        for call in ways_to_call(llm, strategy=strategy):
            refused(
                ConfigError, call,
                ["vocabulary", "tuned guide 'other'", "proposer's family", "without steering"], llm,
            )  # fmt: skip
    assert llm.invoke(GOOD), "control: chunk beam works across vocabularies"


def test_steering_without_guides(llm: W2SLLM) -> None:
    llm.scorer = None
    for strategy in (EmulatedFineTuning(), BestOfN(steering=1.0)):
        refused(ConfigError, lambda s=strategy: llm.invoke(GOOD, strategy=s), ["guide"], llm)


def test_a_search_that_needs_scores_without_scorer(proposer: HuggingFaceProposer) -> None:
    llm = W2SLLM(proposer=proposer, max_tokens=5)
    for call in ways_to_call(llm):
        refused(ConfigError, call, ["'chunk_beam'", "no scorer", "tuned=", "'sampling'"], llm)
    assert isinstance(llm.invoke(GOOD, strategy=Sampling()), str)


def test_parts_of_the_wrong_kind(proposer: HuggingFaceProposer) -> None:
    refused(
        ConfigError,
        lambda: W2SLLM(proposer=3),  # pyright: ignore[reportArgumentType]
        ["proposer", "Proposer", "mapping", "3"],
    )
    refused(
        ConfigError,
        lambda: W2SLLM(proposer=proposer, scorer=3),  # pyright: ignore[reportArgumentType]
        ["scorer", "Scorer", "3"],
    )
    refused(ConfigError, lambda: W2SLLM(), ["proposer", "missing"])
    model = "embedded:reviews-tuned"
    refused(ConfigError, lambda: W2SLLM.from_pretrained(model, tuned=model), ["guides.untuned"])
    refused(
        ConfigError,
        lambda: W2SLLM.from_pretrained(model, guide_chat=True),
        ["'guide_chat'", "tuned and untuned"],
    )


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        (nan_if_bad, ["BadScorer", "NaN", "must be a number"]),
        (lambda hs: [1.0] * (len(hs) - 1), ["BadScorer", "scores for", "one for each"]),
    ],
)
def test_a_scorer_that_breaks_its_contract(
    proposer: HuggingFaceProposer, how: Any, parts: list[str]
) -> None:
    llm = W2SLLM(proposer=proposer, scorer=BadScorer(how), max_tokens=8, seed=0)
    good = llm.invoke(GOOD)
    refused(ScorerError, lambda: llm.invoke("bad"), parts)
    outcomes: list[Any] = llm.batch(["bad", GOOD], return_exceptions=True)
    assert outcomes[1] == good
    assert isinstance(outcomes[0], ScorerError)


# Models.


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "nobody/no-such-model", "no.gguf", "embedded:nothing"]
)
@pytest.mark.parametrize("role", ["proposer", "tuned", "untuned"])
def test_a_model_that_cannot_be_found(tiny_folders: dict[str, Path], name: str, role: str) -> None:
    models = {"proposer": "proposer", "tuned": "tuned", "untuned": "untuned"}
    refs = {key: str(tiny_folders[value]) for key, value in models.items()} | {role: name}
    refused(
        ModelNotFoundError,
        lambda: W2SLLM.from_pretrained(refs.pop("proposer"), **refs),
        [name.removeprefix("embedded:"), "embedded:"],
    )


@pytest.mark.parametrize("role", ["proposer", "tuned"])
def test_a_model_that_cannot_branch(tiny_folders: dict[str, Path], role: str) -> None:
    models = {"proposer": "proposer", "tuned": "tuned", "untuned": "untuned"} | {role: "compressed"}
    refs = {key: str(tiny_folders[value]) for key, value in models.items()}
    refused(
        UnsupportedModelError,
        lambda: W2SLLM.from_pretrained(refs.pop("proposer"), **refs),
        [str(tiny_folders["compressed"]), "cannot branch", "DeepseekV4CSACache"],
    )
