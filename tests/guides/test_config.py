"""The section ``guide`` in all its forms, presets, and models that are saved elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.configs import schema
from w2s_chains import W2SLLM, GuidePair, HuggingFaceProposer
from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError, ModelNotFoundError

PROPOSER = {"model": "x"}
ZEPHYR = "<|system|>\n</s>\n<|user|>\n{prompt}</s>\n<|assistant|>\n"


def guides(value: Any) -> list[Any]:
    section = load_config({"proposer": PROPOSER, "guide": value}).guides
    assert section is not None
    return list(section.specs())


@pytest.mark.parametrize(
    ("name", "tuned", "untuned", "template"),
    [
        (
            "zephyr",
            "HuggingFaceH4/zephyr-7b-beta",
            "HuggingFaceH4/mistral-7b-sft-beta",
            ZEPHYR,
        ),
        (
            "starling",
            "berkeley-nest/Starling-LM-7B-alpha",
            "openchat/openchat_3.5",
            "GPT4 Correct User: {prompt}<|end_of_turn|>GPT4 Correct Assistant: ",
        ),
        (
            "tulu",
            "allenai/tulu-2-dpo-7b",
            "allenai/tulu-2-7b",
            "<|user|>\n{prompt}\n<|assistant|>\n",
        ),
        ("gpt2-imdb", "./ckpt/gpt2-imdb-dpo", "lvwerra/gpt2-imdb", "{prompt}"),
    ],
)
def test_the_pairs_of_the_paper(name: str, tuned: str, untuned: str, template: str) -> None:
    specs = guides(name)
    assert [spec.model for spec in specs] == [tuned, untuned]
    assert {spec.template for spec in specs} == {template}
    assert schema().is_valid({"proposer": PROPOSER, "guide": name})
    changed = guides({"preset": name, "dtype": "bfloat16", "tuned": {"model": "y"}})
    assert [spec.model for spec in changed] == ["y", untuned]
    assert [spec.dtype for spec in changed] == [None, "bfloat16"]


def test_the_paper_studies_use_the_same_pairs() -> None:
    folder = Path(__file__).parents[2] / "cookbook/paper"
    study = yaml.safe_load((folder / "instructions_llama-2.yaml").read_text(encoding="utf-8"))
    found = {
        values["guides"]["tuned"]: values["guides"]
        for values in study["configs"].values()
        if values.get("guides")
    }
    assert len(found) == 3
    for name in ("zephyr", "starling", "tulu"):
        [tuned, untuned] = guides(name)
        written = found[tuned.model]
        assert (untuned.model, untuned.template) == (written["untuned"], written["template"])
        assert untuned.config == written.get("config", {})


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("zephir", ["guide: unknown guide preset 'zephir'; did you mean 'zephyr'?", "tulu"]),
        ("", ["unknown guide preset ''", "gpt2-imdb, starling, tulu, zephyr"]),
        ({}, ["'tuned' and 'untuned'", "'base' and 'adapter'", "preset", "zephyr"]),
        ({"bse": "a"}, ["'tuned' and 'untuned'"]),
        ({"preset": "zephyr", "dtyp": "x"}, ["guide.dtyp", "did you mean 'dtype'"]),
        ({"preset": "nope"}, ["unknown guide preset 'nope'"]),
        ({"base": "a"}, ["guide.adapter: this field is missing"]),
        ({"base": "a", "adaptr": "b"}, ["guide.adaptr", "did you mean 'adapter'", "base"]),
        ({"model": "a", "tuned_templat": "b {prompt}"}, ["tuned_templat", "mean 'tuned_template'"]),
        ({"model": "a", "tuned_template": "b"}, ["guide.tuned_template", "no '{prompt}'"]),
        ({"model": "a"}, ["in the same way", "tuned_system"]),
        ({"model": "a", "tuned_system": "b"}, ["set chat to true"]),
        ({"tuned": "a", "adapter": "b"}, ["guide.untuned: this field", "guide.adapter: unknown"]),
        ({"tuned": {"base_url": "http://x", "modl": "y"}, "untuned": "b"}, ["guide.tuned.modl"]),
        ({"tuned": {"modl": "y"}, "untuned": "b"}, ["guide.tuned.modl", "did you mean 'model'"]),
        (3, ["guide"]),
    ],
)
def test_faults(value: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"proposer": PROPOSER, "guide": value})
    for part in parts:
        assert part in str(caught.value)
    if value != {"model": "a"} and value != {"model": "a", "tuned_system": "b"}:
        assert not schema().is_valid({"proposer": PROPOSER, "guide": value})


@pytest.mark.parametrize(
    "value",
    [
        "tulu",
        {"preset": "tulu", "device": "cpu"},
        {"base": "a", "adapter": "b", "chat": "auto"},
        {"model": "a", "tuned_template": "b {prompt}"},
        {"tuned": {"model": "a", "adapter": "b"}, "untuned": "a"},
        {"tuned": {"base_url": "http://x/v1", "model": "a", "end": "</s>"}, "untuned": "a"},
    ],
)
def test_the_schema_takes_every_form(value: Any) -> None:
    assert guides(value)
    assert schema().is_valid({"proposer": PROPOSER, "guide": value})


def test_a_fault_in_a_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("proposer: {model: x}\nguide:\n  base: a\n  adaptr: b\n")
    with pytest.raises(ConfigError, match=r"w\.yaml:4: guide\.adaptr: unknown field"):
        load_config(path)


# Files of the user.


@pytest.fixture
def own(tmp_path: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with presets of the user."""
    path = tmp_path / "presets.yaml"
    folders = {name: str(tiny_folders[name]) for name in ("tuned", "untuned")}
    mine = {"mine": {**folders, "template": "A {prompt}"}}
    path.write_text(yaml.safe_dump(mine))
    monkeypatch.setenv("W2S_PRESETS", str(path))
    return path


def test_presets_of_the_user(own: Path, tiny_folders: dict[str, Path]) -> None:
    assert [spec.template for spec in guides("mine")] == ["A {prompt}"] * 2
    assert guides("zephyr")
    llm = W2SLLM.from_config(
        {"proposer": {"model": str(tiny_folders["proposer"])}, "guide": "mine"},
        max_tokens=3,
        seed=0,
    )
    again = W2SLLM.from_config(llm.to_config())
    assert again._identifying_params == llm._identifying_params
    assert again.invoke("The movie") == llm.invoke("The movie")
    flat = W2SLLM.from_pretrained(str(tiny_folders["proposer"]), guide="mine", max_tokens=3, seed=0)
    assert flat._identifying_params == llm._identifying_params
    with pytest.raises(ConfigError, match="give one of them"):
        W2SLLM.from_pretrained("x", guide="mine", tuned="a", untuned="b")
    pair: Any = GuidePair.from_preset("mine", template="B {prompt}")
    assert pair.tuned.spec.template == "B {prompt}"
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        GuidePair.from_preset("mien")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "must map names of presets"),
        ("zephyr: {tuned: a, untuned: b}", "'zephyr' .* is built in"),
        ("mine: other", "'mine' .* must be a mapping"),
        ("mine: {preset: zephyr}", "'mine' .* must be a mapping"),
        ("a: [", "yaml:1: broken YAML"),
        ("mine: !!python/object:os.system x", "broken YAML"),
        ("mine: {tuned: a}", "guide.untuned: this field is missing"),
    ],
)
def test_a_broken_file_of_presets(own: Path, text: str, told: str) -> None:
    own.write_text(text)
    with pytest.raises(ConfigError, match=told):
        guides("mine")
    own.unlink()
    with pytest.raises(ConfigError, match="cannot read file"):
        guides("zephyr")


def test_models_that_are_saved_elsewhere(
    tmp_path: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotFoundError):
        HuggingFaceProposer.from_pretrained("owner/large")  # control
    path = tmp_path / "paths.yaml"
    (tmp_path / "near").symlink_to(tiny_folders["proposer"])
    lines = {"owner/large": "near", "./ckpt/gpt2-imdb-dpo": str(tiny_folders["gpt2"]), "a/b": "no"}
    path.write_text(yaml.safe_dump(lines))
    monkeypatch.setenv("W2S_MODEL_PATHS", str(path))
    proposer = HuggingFaceProposer.from_pretrained("owner/large")
    assert proposer.spec is not None
    assert proposer.spec.model == "owner/large", "configs keep the name"
    pair: Any = GuidePair.from_preset("gpt2-imdb", untuned=str(tiny_folders["untuned"]))
    assert pair.tuned.lm.model.config.model_type == "gpt2"
    with pytest.raises(ModelNotFoundError, match=r"'a/b' is saved at .*no', .*W2S_MODEL_PATHS"):
        HuggingFaceProposer.from_pretrained("a/b")
    path.write_text("- a")
    with pytest.raises(ConfigError, match="must map names of models"):
        HuggingFaceProposer.from_pretrained("owner/large")
