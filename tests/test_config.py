"""A guided LLM as YAML: what goes in comes out, and every fault is told with its line."""

from __future__ import annotations

import functools
import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import w2s_chains
from tests.test_llms import forwards
from w2s_chains import (
    W2SLLM,
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    Sampling,
)
from w2s_chains.cli import app
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.plugins import did_you_mean, find_plugin
from w2s_chains.errors import ConfigError
from w2s_chains.search import STRATEGIES

PROMPT = "The movie was great"

WHOLE = """\
proposer:
  model: PROPOSER
  template: "Here is a movie review: {prompt}"
  token_budget: 1000
guide:
  tuned: TUNED
  untuned:
    model: UNTUNED
    template: "A review: {prompt}"
scorer:
  type: log_ratio
strategy:
  type: chunk_beam
  width: 2
  successors: 2
  chunk_tokens: 4
generation:
  max_tokens: 8
  temperature: 0.7
  stop:
    - "的"
    - "\\n\\n"
  seed: 3
  n: 1
"""


@pytest.fixture
def text(tiny_folders: dict[str, Path]) -> str:
    filled = WHOLE
    for name in ("proposer", "tuned", "untuned"):
        filled = re.sub(rf"\b{name.upper()}\b", str(tiny_folders[name]), filled)
    return filled


@pytest.fixture
def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "w2s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, text: str, *parts: str, line: int | None = None) -> str:
    """The message with which a file is refused."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    for part in (f"{path}:{line}: " if line else str(path), *parts):
        assert part in message, f"{part!r} is not in {message!r}"
    return message


# Round trips.


def test_a_file_is_the_same_as_arguments(file: Path, tiny_folders: dict[str, Path]) -> None:
    read = W2SLLM.from_config(file)
    built = W2SLLM.from_pretrained(
        str(tiny_folders["proposer"]),
        tuned=str(tiny_folders["tuned"]),
        untuned=str(tiny_folders["untuned"]),
        proposer_template="Here is a movie review: {prompt}",
        proposer_token_budget=1000,
        untuned_template="A review: {prompt}",
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=4),
        max_tokens=8,
        temperature=0.7,
        stop=["的", "\n\n"],
        seed=3,
    )
    assert read.to_config() == built.to_config()
    assert read._identifying_params == built._identifying_params
    assert read.invoke(PROMPT) == built.invoke(PROMPT)
    other = W2SLLM.from_config(file, seed=4)  # control
    assert other._identifying_params != read._identifying_params
    assert other.seed == 4
    assert other.max_tokens == 8


def test_yaml_round_trip(file: Path, tmp_path: Path) -> None:
    llm = W2SLLM.from_config(file)
    again = tmp_path / "again.yaml"
    values = llm.to_config(again)
    assert yaml.safe_load(again.read_text(encoding="utf-8")) == values
    copy = W2SLLM.from_config(again)
    assert copy.to_config() == values
    assert copy._identifying_params == llm._identifying_params
    assert copy.invoke(PROMPT) == llm.invoke(PROMPT)
    assert W2SLLM.from_config(values)._identifying_params == llm._identifying_params
    assert "的" in again.read_text(encoding="utf-8")
    assert list(values) == ["proposer", "guide", "scorer", "strategy", "generation"]


@pytest.mark.parametrize(
    "strategy",
    [
        Sampling(),
        BestOfN(n=7, steering=0.25),
        EmulatedFineTuning(beta=-2.0),
        ChunkBeamSearch(width=3, chunk_tokens=None, return_best="finished"),
    ],
)
def test_every_strategy_and_setting_survives(
    tiny_folders: dict[str, Path], tmp_path: Path, strategy: Any
) -> None:
    fields: dict[str, Any] = {
        "strategy": strategy, "max_tokens": 3, "temperature": 0.0, "top_p": 0.5, "top_k": 4,
        "repetition_penalty": 1.5, "stop": ("a", "😀"), "seed": -1, "n": 2,
    }  # fmt: skip
    folders = {name: str(tiny_folders[name]) for name in ("tuned", "untuned")}
    llm = W2SLLM.from_pretrained(str(tiny_folders["proposer"]), **folders, **fields)
    llm.to_config(tmp_path / "w2s.yaml")
    copy = W2SLLM.from_config(tmp_path / "w2s.yaml")
    assert {name: getattr(copy, name) for name in fields} == fields


def test_swapping_the_strategy_is_one_line(text: str, file: Path) -> None:
    without = re.sub(r"strategy:\n(  .*\n)+", "", text)
    file.write_text(without + "strategy: {type: best_of_n, n: 2}\n")
    assert W2SLLM.from_config(file).strategy == BestOfN(n=2)
    file.write_text(without)
    assert W2SLLM.from_config(file).strategy == ChunkBeamSearch(), "the default"


def test_options_of_the_guide_section_hold_for_names(tiny_folders: dict[str, Path]) -> None:
    tuned, untuned = str(tiny_folders["tuned"]), str(tiny_folders["untuned"])
    config = load_config(
        {
            "proposer": {"model": tiny_folders["proposer"]},
            "guide": {
                "tuned": tuned,
                "untuned": {"model": untuned, "template": "B {prompt}"},
                "template": "A {prompt}",
            },
        }
    )
    pair = config.build()["scorer"].pair
    assert pair.tuned.spec.template == "A {prompt}"
    assert pair.untuned.spec.template == "B {prompt}"
    flat = W2SLLM.from_pretrained(
        tuned, tuned=tuned, untuned=untuned, guide_template="A {prompt}",
        untuned_template="B {prompt}", dtype="bfloat16", untuned_dtype="float32",
    )  # fmt: skip
    assert isinstance(flat.scorer, LogRatioScorer)
    described = str(flat._identifying_params["scorer"])
    assert described.index("A {prompt}") < described.index("B {prompt}")
    guides: Any = flat.scorer.pair
    assert str(guides.tuned.lm.model.dtype) == "torch.bfloat16"
    assert str(guides.untuned.lm.model.dtype) == "torch.float32"


def test_fields_win_over_the_file_and_given_parts_are_not_loaded(
    file: Path, proposer: HuggingFaceProposer, scorer: LogRatioScorer, pair: GuidePair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    loaded: list[str] = []
    from_spec = HuggingFaceGuide.from_spec
    monkeypatch.setattr(
        "w2s_chains.backend.loading.local_model.LocalModel.from_spec",
        classmethod(lambda cls, spec: loaded.append(spec.model) or from_spec(spec)),
    )
    llm = W2SLLM.from_config(
        file, proposer=proposer, scorer=scorer, guide=pair, strategy={"type": "sampling"},
        temperature=0, tags=["mine"],
    )  # fmt: skip
    assert loaded == []
    assert (llm.proposer, llm.scorer, llm.guide) == (proposer, scorer, pair)
    assert (llm.strategy, llm.temperature, llm.tags) == (Sampling(), 0.0, ["mine"])
    assert llm.max_tokens == 8
    assert isinstance(llm.invoke(PROMPT), str)


def test_a_given_pair_takes_the_place_of_the_guides(
    file: Path, proposer: HuggingFaceProposer, pair: GuidePair, tiny_folders: dict[str, Path]
) -> None:
    llm = W2SLLM.from_config(file, proposer=proposer, guide=pair)
    assert isinstance(llm.scorer, LogRatioScorer)
    assert llm.scorer.pair is pair
    unguided = W2SLLM.from_config(file, guide=None)
    assert (unguided.guide, unguided.scorer) == (None, None)
    with pytest.raises(ConfigError, match="guide is given, and so are tuned or untuned"):
        W2SLLM.from_pretrained(
            str(tiny_folders["proposer"]), tuned=str(tiny_folders["tuned"]),
            untuned=str(tiny_folders["untuned"]), guide=pair,
        )  # fmt: skip


# What cannot be written.


def test_hand_built_parts_cannot_be_written(
    file: Path, proposer: HuggingFaceProposer, scorer: LogRatioScorer, pair: GuidePair
) -> None:
    class Own(LogRatioScorer):
        pass

    loaded = W2SLLM.from_config(file)
    assert isinstance(loaded.scorer, LogRatioScorer)
    cases = {
        r"proposer \(HuggingFaceProposer\)": {"proposer": proposer},
        r"tuned guide \(HuggingFaceGuide\)": {"scorer": scorer},
        r"scorer \(Own\)": {"scorer": Own(loaded.scorer.pair)},
        r"different pairs": {"guide": pair},
    }
    for told, changed in cases.items():
        with pytest.raises(ConfigError, match=told):
            loaded.model_copy(update=changed).to_config()
    assert loaded.to_config(), "control"


def test_what_is_written_is_what_is_there(file: Path) -> None:
    """A guide without scorer stays without; swapped guides stay swapped."""
    loaded = W2SLLM.from_config(file)
    assert isinstance(loaded.scorer, LogRatioScorer)
    pair = loaded.scorer.pair
    assert isinstance(pair, GuidePair)
    steered = loaded.model_copy(
        update={"scorer": None, "guide": pair, "strategy": EmulatedFineTuning()}
    )
    values = steered.to_config()
    assert values["scorer"] is None
    again = W2SLLM.from_config(values)
    assert again.scorer is None
    assert again.guide is not None
    assert again._identifying_params == steered._identifying_params
    assert again.invoke(PROMPT) == steered.invoke(PROMPT)
    assert forwards(again) > 0
    swapped = loaded.model_copy(update={"scorer": LogRatioScorer(pair.swapped())})
    guide = swapped.to_config()["guide"]
    assert guide["tuned"]["model"].endswith("untuned")
    base = loaded.model_copy(update={"scorer": None, "strategy": Sampling()})
    assert set(base.to_config()) == {"proposer", "strategy", "generation"}


def test_a_file_that_cannot_be_written(file: Path, tmp_path: Path) -> None:
    llm = W2SLLM.from_config(file)
    with pytest.raises(ConfigError, match=r"cannot write the config to .*no/such/w2s\.yaml"):
        llm.to_config(tmp_path / "no" / "such" / "w2s.yaml")


# Faults, with file and line.


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("  token_budget", "  token_budgett", 4, ["proposer.token_budgett", "'token_budget'"]),
        ("  tuned:", "  tunned:", 6, ["guide.tunned", "did you mean 'tuned'", "guide.tuned"]),
        ('template: "A ', 'tamplate: "A ', 9, ["guide.untuned.tamplate", "mean 'template'"]),
        ("  type: log_ratio", "  typ: log_ratio", 11, ["scorer.typ", "did you mean 'type'"]),
        ("  type: log_ratio", "  type: log", 10, ["unknown scorer type 'log'", "log_ratio"]),
        ("  width:", "  widht:", 14, ["strategy.widht", "did you mean 'width'"]),
        ("chunk_beam", "chunk_bean", 12, ["'chunk_bean'", "did you mean 'chunk_beam'", "sampling"]),
        ("  type: chunk_beam\n", "", 12, ["strategy", "'type'", "best_of_n"]),
        ("  max_tokens", "  max_token", 18, ["generation.max_token", "did you mean 'max_tokens'"]),
        ("strategy:", "stratgy:", 12, ["stratgy", "did you mean 'strategy'", "generation"]),
        ("temperature: 0.7", "temperature: -1", 19, ["greater than or equal to 0", "-1"]),
        ("temperature: 0.7", "temperature: .nan", 19, ["finite"]),
        ('- "的"', '- ""', 21, ["generation.stop.0", "at least 1 character"]),
        ("  n: 1", "  n: 0", 24, ["generation.n", "greater than or equal to 1", "0"]),
        ("{prompt}", "{promt}", 3, ["proposer.template", "no '{prompt}'"]),
        ("  token_budget: 1000", "  system: Be kind.", 1, ["proposer", "set chat to true"]),
        ("  token_budget: 1000", "  device_map: 3", 4, ["proposer.device_map", "(got 3)"]),
        ("  model: UN", "  modle: UN", 8, ["guide.untuned.modle", "did you mean 'model'"]),
        ("  seed: 3", "  seed: x", 23, ["generation.seed", "integer", "'x'"]),
        ("  width: 2", "  width: 2\n  width: 3", 15, ["'width' is written twice", "keep one"]),
        ("strategy:", "proposer:", 12, ["'proposer' is written twice"]),
        ("  width: 2", "  width: [2", 15, ["broken YAML", "expected ',' or ']'"]),
        ("  width: 2", "\twidth: 2", 14, ["broken YAML"]),
        ("  width: 2", "  width: !!python/object:os.system x", 14, ["broken YAML", "os.system"]),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, parts: list[str]
) -> None:
    assert old in WHOLE
    path = tmp_path / "w.yaml"
    message = refused(path, WHOLE.replace(old, new, 1), *parts, line=line)
    assert all(re.match(rf"{re.escape(str(path))}:\d+: ", told) for told in message.split("\n"))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    broken = WHOLE.replace("width: 2", "width: 0").replace("n: 1", "n: 0").replace("seed", "sed")
    message = refused(tmp_path / "w.yaml", broken)
    assert [int(line) for line in re.findall(r"w\.yaml:(\d+): ", message)] == [14, 23, 24]


def test_a_fault_in_a_mapping_has_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^config: generation\.top_p: .*equal to 1 \(got 2\)$"):
        load_config({"proposer": {"model": "x"}, "generation": {"top_p": 2}})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["a config is a mapping", "proposer"]),
        ("- 1\n- 2\n", ["a config is a mapping"]),
        ("just text", ["a config is a mapping"]),
        ("{}", ["proposer: this field is missing"]),
        ("proposer:\n", ["proposer", "valid dictionary"]),
        ("proposer: {model: x}\nguide: {tuned: a}\n", ["guide.untuned: this field is missing"]),
        ("proposer: {model: ''}\n", ["proposer.model", "at least 1 character"]),
        ("proposer: {model: x, 3: y}\n", ["proposer", "Keys should be strings"]),
        ("? [a]\n: b\n", ["broken YAML"]),
        ("proposer: &x {model: *x}\n", ["w.yaml"]),
        ("proposer: {model: x}\ngeneration: {seed: 2020-99-99}\n", ["broken YAML", "month"]),
        ("a: *nothing\n", ["broken YAML", "undefined alias"]),
        ("a: b\n---\nc: d\n", ["broken YAML", "expected a single document"]),
        ("a: \x00", ["broken YAML"]),
        ("a: !!int ''\n", ["broken YAML"]),
        ("a: !!bool x\n", ["broken YAML"]),
        ("a: !!timestamp x\n", ["broken YAML"]),
        ("[" * 5000, ["broken YAML"]),
    ],
)
def test_other_broken_files(tmp_path: Path, text: str, parts: list[str]) -> None:
    refused(tmp_path / "w.yaml", text, *parts)


def test_a_scorer_needs_guides(tiny_folders: dict[str, Path]) -> None:
    config = {"proposer": {"model": str(tiny_folders["proposer"])}, "scorer": {}}
    with pytest.raises(ConfigError, match="needs a section guide"):
        W2SLLM.from_config(config)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, binary, "nul\0.yaml"):
        with pytest.raises(ConfigError, match="cannot read config"):
            W2SLLM.from_config(path)


def test_anchors_and_merges_work(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(
        f"proposer: &model\n  model: {tiny_folders['tuned']}\n  token_budget: 500\n"
        f"guide:\n  tuned: *model\n  untuned:\n    <<: *model\n    token_budget: 600\n"
    )
    config = load_config(path)
    assert config.guide is not None
    tuned: Any = config.guide.tuned
    untuned: Any = config.guide.untuned
    assert tuned == config.proposer
    assert (untuned.model, untuned.token_budget) == (tuned.model, 600)


# Open-ended input.

NAMES = sorted(
    {"proposer", "guide", "scorer", "strategy", "generation", "model", "tuned", "untuned", "type"}
    | {"width", "stop", "seed", "n", "temperature", "device_map", "template", "chat", "system"}
)
LEAVES = st.sampled_from(["chunk_beam", "sampling", "{prompt}", "x", True, 1, 0, -1, 1.5, None])
ANYTHING = st.recursive(
    LEAVES | st.text(max_size=5) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def outcome(config: Any) -> str | None:
    """None if it can be read, else the error; any other error than ConfigError passes through."""
    try:
        assert isinstance(load_config(config), W2SConfig)
    except ConfigError as error:
        return str(error)
    return None


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), ANYTHING, max_size=5))
@example({"proposer": {"model": "x"}, "strategy": {"type": ["chunk_beam"], "x": 1}})
@example({"proposer": {"model": "x"}, "guide": {"tuned": [1], "untuned": {"spec": 1}}})
def test_a_random_mapping_is_read_or_refused(values: dict[str, Any]) -> None:
    told = outcome(values)
    assert told is None or told.startswith("config: ")


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, len(WHOLE)), count=st.integers(0, 12),
    new=st.text(max_size=4) | st.sampled_from(["- ", ": ", "\n", "{", "&a ", "*a", "!!int ", "? "]),
)  # fmt: skip
def test_a_garbled_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, count: int, new: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbled.yaml"
    text = WHOLE[:at] + new + WHOLE[at + count :]
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = outcome(path)
    assert told is None or str(path) in told


def test_the_whole_file_is_fine(tmp_path: Path) -> None:
    """Control for all tests above that garble it."""
    path = tmp_path / "w.yaml"
    path.write_text(WHOLE, encoding="utf-8")
    assert load_config(path).strategy == ChunkBeamSearch(width=2, successors=2, chunk_tokens=4)


# Plug-ins.


class Patient(Sampling):
    """A strategy of another package."""

    type: Literal["patient"] = "patient"
    patience: int = 3


def not_a_class() -> None:
    """Registered by mistake."""


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "patient": "tests.test_config:Patient",
        "lost": "no_such_package_at_all:Strategy",
        "odd": "tests.test_config:not_a_class",
        "other": "collections:OrderedDict",
        "chunk_beam": "tests.test_config:Patient",
    }
    monkeypatch.setattr(
        "w2s_chains.core.plugins.entry_points",
        lambda group: [
            EntryPoint(name, value, group)
            for name, value in values.items()
            if group == "w2s_chains.strategies"
        ],
    )


def test_strategies_of_other_packages(
    plugins: None, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = {"model": str(tiny_folders["proposer"])}
    config = {"proposer": model, "strategy": {"type": "patient", "patience": 5}}
    llm = W2SLLM.from_config(config)
    assert llm.strategy == Patient(patience=5)
    assert W2SLLM.from_config(llm.to_config()).strategy == Patient(patience=5)
    assert isinstance(llm.invoke(PROMPT, strategy={"type": "patient"}, max_tokens=3), str)
    # A built-in name cannot be taken over.
    assert type(load_config({**config, "strategy": {"type": "chunk_beam"}}).strategy) is (
        ChunkBeamSearch
    )
    path = tmp_path / "w.yaml"
    start = "proposer: {model: x}\nstrategy:\n"
    refused(path, start + "  type: patient\n  patince: 3\n", "did you mean 'patience'", line=4)
    refused(path, start + "  type: patiend\n", "did you mean 'patient'", "chunk_beam", line=2)
    refused(path, start + "  type: lost\n", "'lost' cannot be imported", "no_such_package", line=2)
    refused(path, start + "  type: odd\n", "'odd'", "pydantic model", line=2)
    refused(path, start + "  type: other\n", "'other'", "pydantic model", line=2)


def test_nothing_is_imported_for_names_that_are_no_entry_points() -> None:
    for name in ("os.system", "tests.test_config:Patient", ""):
        with pytest.raises(ConfigError, match="unknown strategy type"):
            find_plugin("strategies", name, {})


def test_did_you_mean() -> None:
    assert did_you_mean("widht", ["width", "n"]) == "; did you mean 'width'? (choices: n, width)"
    assert did_you_mean("zzz", ["width", "n"]) == " (choices: n, width)"


# The JSON schema for editors.

PUBLISHED = Path(w2s_chains.__file__).with_name("w2s.schema.json")


@functools.cache
def schema() -> jsonschema.Draft202012Validator:
    values = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(values)
    return jsonschema.Draft202012Validator(values)


def test_the_published_schema_is_the_one_that_the_command_prints() -> None:
    done = CliRunner().invoke(app, ["schema"])
    assert done.exit_code == 0
    message = "write it anew: w2s schema > w2s_chains/w2s.schema.json"
    assert done.stdout == PUBLISHED.read_text(encoding="utf-8"), message


def test_the_schema_explains_itself() -> None:
    root: Any = schema().schema
    kinds = root["$defs"]
    assert root["properties"]["strategy"]["discriminator"]["mapping"] == {
        name: f"#/$defs/{strategy.__name__}" for name, strategy in STRATEGIES.items()
    }
    for name, strategy in STRATEGIES.items():
        assert kinds[strategy.__name__]["properties"]["type"]["const"] == name
        assert "type" in kinds[strategy.__name__]["required"]
    assert kinds["HuggingFace"]["properties"]["type"]["const"] == "huggingface"
    assert "type" not in kinds["HuggingFace"]["required"]
    assert kinds["LogRatioConfig"]["properties"]["type"]["const"] == "log_ratio"
    for name, kind in [*kinds.items(), ("W2SConfig", root)]:
        assert len(kind["description"]) > 20, name
        assert not any(mark in kind["description"] for mark in ("Attributes", "Example", "``"))
        for field, about in kind["properties"].items():
            assert about.get("description") or field == "type", (name, field)
    assert kinds["EmulatedFineTuning"]["properties"]["beta"]["description"] == (
        "Weight of the guides; 0 is plain sampling."
    )


MODEL = {"model": "x"}
ALIKE: list[Any] = [
    # What both take.
    {"proposer": MODEL},
    {"proposer": {**MODEL, "type": "huggingface", "chat": "auto", "device_map": {"": 0}}},
    {"type": "chat", "proposer": {**MODEL, "chat": True, "system": "Be kind.", "config": {"a": 1}}},
    {"type": None, "proposer": MODEL, "guide": None, "scorer": None},
    {"proposer": MODEL, "guide": {"tuned": "a", "untuned": MODEL, "template": "{prompt}\n"}},
    {"proposer": MODEL, "scorer": {}, "guide": {"tuned": MODEL, "untuned": "b"}},
    {"proposer": MODEL, "generation": {"stop": "x", "top_k": None, "seed": -3, "temperature": 0}},
    {"proposer": MODEL, "generation": {"stop": None, "top_p": 1, "n": 2}},
    {"proposer": MODEL, "generation": {"stop": ["a", "b"]}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "chunk_tokens": None}},
    {"proposer": MODEL, "strategy": {"type": "best_of_n", "n": 16, "steering": -0.5}},
    # What both refuse.
    {},
    [],
    {"proposer": None},
    {"proposer": "x"},
    {"proposer": {}},
    {"proposer": {"model": ""}},
    {"proposer": {**MODEL, "type": "nope"}},
    {"proposer": {**MODEL, "type": 3}},
    {"proposer": {**MODEL, "template": "{promt}"}},
    {"proposer": {**MODEL, "token_budget": 0}},
    {"proposer": {**MODEL, "chat": "perhaps"}},
    {"type": "talk", "proposer": MODEL},
    {"proposer": MODEL, "stratgy": {"type": "sampling"}},
    {"proposer": MODEL, "guide": {"tuned": "a"}},
    {"proposer": MODEL, "guide": {"tuned": "a", "untuned": ["b"]}},
    {"proposer": MODEL, "guide": {"tuned": "a", "untuned": {**MODEL, "type": "huggingface"}}},
    {"proposer": MODEL, "scorer": {"type": "logratio"}},
    {"proposer": MODEL, "scorer": {"type": "log_ratio", "x": 1}},
    {"proposer": MODEL, "scorer": "log_ratio"},
    {"proposer": MODEL, "strategy": None},
    {"proposer": MODEL, "strategy": {}},
    {"proposer": MODEL, "strategy": {"width": 4}},
    {"proposer": MODEL, "strategy": "sampling"},
    {"proposer": MODEL, "strategy": {"type": "sampling", "n": 3}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "width": 0}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "width": 1.5}},
    {"proposer": MODEL, "strategy": {"type": "chunk_beam", "return_best": "worst"}},
    {"proposer": MODEL, "generation": None},
    {"proposer": MODEL, "generation": {"stop": [""]}},
    {"proposer": MODEL, "generation": {"stop": ""}},
    {"proposer": MODEL, "generation": {"top_p": 0}},
    {"proposer": MODEL, "generation": {"temperature": "hot"}},
    {"proposer": MODEL, "generation": {"seed": 0.5}},
]


@pytest.mark.parametrize("values", ALIKE, ids=str)
def test_the_schema_takes_what_is_taken(values: Any) -> None:
    taken = isinstance(values, dict) and outcome(values) is None
    assert schema().is_valid(values) == taken


def test_the_examples_are_good_and_bad() -> None:
    """Control of the test above."""
    taken = [schema().is_valid(values) for values in ALIKE]
    assert taken == sorted(taken, reverse=True)
    assert min(taken.count(True), taken.count(False)) > 10


COOKBOOK = Path(__file__).parents[1] / "cookbook"


def test_the_schema_takes_the_configs_of_the_cookbook() -> None:
    count = 0
    for path in COOKBOOK.rglob("study.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        for own in values["configs"].values():
            config = {**values["base"], **{k: v for k, v in own.items() if k != "seeds"}}
            schema().validate(config)
            count += 1
    assert count > 10


def test_the_schema_knows_the_whole_file() -> None:
    assert schema().is_valid(yaml.safe_load(WHOLE))
    broken = WHOLE.replace("  width: 2", "  widht: 2")
    assert not schema().is_valid(yaml.safe_load(broken)), "control"


def places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = values.items() if isinstance(values, dict) else ()
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


PLAIN = st.sampled_from([*NAMES, "sampling", "log_ratio", "huggingface", "{prompt}", "auto", ""])
VALUES = st.recursive(
    PLAIN | st.booleans() | st.integers(-3, 3) | st.none() | st.floats(-2, 2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(PLAIN, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_the_schema_takes_is_taken(data: st.DataObject) -> None:
    """One or two values of a good config are replaced by others, or other fields added."""
    values = yaml.safe_load(WHOLE)
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(places(values)[1:]))
        node = functools.reduce(lambda inner, key: inner[key], path, values)
        key = data.draw(st.just(last) | st.sampled_from(NAMES))
        node[key] = data.draw(VALUES)
    if schema().is_valid(values) and (told := outcome(values)) is not None:
        assert "a system message needs the chat template" in told
