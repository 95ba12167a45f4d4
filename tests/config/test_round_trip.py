"""A model as YAML: what goes in comes out, or cannot be written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.llms import PROMPT, forwards
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
from w2s_chains.config.files import load_config
from w2s_chains.errors import ConfigError

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
    assert list(values) == ["proposer", "guides", "scorer", "strategy", "generation"]


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
        file, proposer=proposer, scorer=scorer, strategy={"type": "sampling"},
        guide=pair,  # pyright: ignore[reportCallIssue]
        temperature=0, tags=["mine"],
    )  # fmt: skip
    assert loaded == []
    assert (llm.proposer, llm.scorer, llm.guides) == (proposer, scorer, pair)
    assert (llm.strategy, llm.temperature, llm.tags) == (Sampling(), 0.0, ["mine"])
    assert llm.max_tokens == 8
    assert isinstance(llm.invoke(PROMPT), str)


def test_a_given_pair_takes_the_place_of_the_guides(
    file: Path, proposer: HuggingFaceProposer, pair: GuidePair, tiny_folders: dict[str, Path]
) -> None:
    llm = W2SLLM.from_config(
        file,
        proposer=proposer,
        guide=pair,  # pyright: ignore[reportCallIssue]
    )
    assert isinstance(llm.scorer, LogRatioScorer)
    assert llm.scorer.pair is pair
    unguided = W2SLLM.from_config(file, guide=None)  # pyright: ignore[reportCallIssue]
    assert (unguided.guides, unguided.scorer) == (None, None)
    with pytest.raises(ConfigError, match="guides are given, and so are tuned or untuned"):
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
        r"different pairs": {"guides": pair},
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
        update={"scorer": None, "guides": pair, "strategy": EmulatedFineTuning()}
    )
    values = steered.to_config()
    assert values["scorer"] is None
    again = W2SLLM.from_config(values)
    assert again.scorer is None
    assert again.guides is not None
    assert again._identifying_params == steered._identifying_params
    assert again.invoke(PROMPT) == steered.invoke(PROMPT)
    assert forwards(again) > 0
    swapped = loaded.model_copy(update={"scorer": LogRatioScorer(pair.swapped())})
    guide = swapped.to_config()["guides"]
    assert guide["tuned"]["model"].endswith("untuned")
    base = loaded.model_copy(update={"scorer": None, "strategy": Sampling()})
    assert set(base.to_config()) == {"proposer", "strategy", "generation"}


def test_a_file_that_cannot_be_written(file: Path, tmp_path: Path) -> None:
    llm = W2SLLM.from_config(file)
    with pytest.raises(ConfigError, match=r"cannot write the config to .*no/such/w2s\.yaml"):
        llm.to_config(tmp_path / "no" / "such" / "w2s.yaml")
