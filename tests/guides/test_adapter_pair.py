"""One base with a LoRA adapter on and off: the same as two models, in one forward pass."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    EmulatedFineTuning,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    LogRatioScorer,
)
from w2s_chains.errors import ConfigError, ModelNotFoundError, UnsupportedModelError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A base and an adapter in folders, and both as two models."""
    root = tmp_path_factory.mktemp("lora")
    base, tokenizer = tiny.llama(320, seed=1), tiny.byte_tokenizer()
    base.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    merged = tiny.save_adapter(root / "adapter", base)
    two = GuidePair(HuggingFaceGuide(merged, tokenizer), HuggingFaceGuide(base, tokenizer))
    return {"base": str(root / "base"), "adapter": str(root / "adapter"), "two": two, "root": root}


def tree() -> list[Hypothesis]:
    """Prompts of several lengths, siblings, a grandchild, ends, and an unread ancestor."""
    hypotheses: list[Hypothesis] = []
    for prompt in ("The movie", "A boring film; the acting", "電影"):
        root = Hypothesis.root(prompt)
        child = root.extend(" was great")
        hypotheses += [
            child,
            root.extend(" wat"),
            child.extend(" and fun", finish_reason="eos"),
            child.extend(" 映").extend("画 was"),
            root.extend("", finish_reason="eos"),
        ]
    return hypotheses


def close(pair: GuidePair, other: GuidePair, tolerance: float = 1e-4) -> bool:
    ours, theirs = (torch.tensor(p.loglikelihoods(tree())) for p in (pair, other))
    return bool((ours - theirs).abs().max() < tolerance)


def test_the_pair_is_the_two_models(saved: dict[str, Any]) -> None:
    pair = GuidePair.from_adapter(saved["base"], saved["adapter"])
    assert close(pair, saved["two"])
    assert close(pair.swapped(), saved["two"].swapped())
    assert not close(pair, saved["two"].swapped(), 1.0), "control"
    [(tuned, untuned)] = pair.loglikelihoods(tree()[:1])
    assert abs(tuned - untuned) > 1e-2, "control: the adapter does something"


def test_both_guides_read_in_one_forward(saved: dict[str, Any]) -> None:
    """One for the prompts, and one for each step of the search; the weights are there once."""
    pair = GuidePair.from_adapter(saved["base"], saved["adapter"])
    tuned, untuned = both_guides(pair)
    assert tuned.lm.model is untuned.lm.model
    counters = tuned.lm.counters
    root = Hypothesis.root("The movie")
    first = [root.extend(" was"), root.extend(" is")]
    pair.loglikelihoods(first)
    assert counters.forwards == 2
    pair.loglikelihoods([first[0].extend(" fun"), first[1].extend(" bad")])
    assert counters.forwards == 3
    pair.loglikelihoods(first)
    assert counters.forwards == 3
    apart = GuidePair(
        HuggingFaceGuide.from_pretrained(saved["base"], adapter=saved["adapter"]),
        HuggingFaceGuide.from_pretrained(saved["base"]),
    )
    one, other = both_guides(apart)
    assert one.lm.model is not other.lm.model, "control"
    assert close(apart, pair)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny.llama, {"modules_to_save": ["lm_head"]}),
        (tiny.llama, {"target_modules": ["q_proj", "embed_tokens"]}),
        (tiny.llama, {"use_rslora": True, "rank_pattern": {"q_proj": 2}}),
        (tiny.gpt2, {"lora_bias": True}),
    ],
)
def test_other_adapters(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    base, tokenizer = make(320, seed=1), tiny.byte_tokenizer()
    merged = tiny.save_adapter(tmp_path, base, **options)
    loaded = HuggingFaceGuide(base, tokenizer)
    plain = loaded.loglikelihood(tree())
    pair = GuidePair.from_adapter(loaded, tmp_path)
    two = GuidePair(HuggingFaceGuide(merged, tokenizer), HuggingFaceGuide(make(320, 1), tokenizer))
    assert close(pair, two)
    assert loaded.loglikelihood(tree()) == pytest.approx(plain, abs=1e-4), "the base is as it was"


def test_two_adapters_of_one_base(saved: dict[str, Any], tmp_path: Path) -> None:
    base, tokenizer = tiny.llama(320, seed=1), tiny.byte_tokenizer()
    merged = tiny.save_adapter(tmp_path, base, seed=9)
    proposer = HuggingFaceProposer.from_pretrained(saved["base"])
    first = GuidePair.from_adapter(proposer, saved["adapter"])
    second = GuidePair.from_adapter(proposer, tmp_path)
    two = GuidePair(HuggingFaceGuide(merged, tokenizer), HuggingFaceGuide(base, tokenizer))
    assert close(first, saved["two"])
    assert close(second, two)
    assert not close(first, second, 1e-2), "control"


def test_the_proposer_may_be_the_base(saved: dict[str, Any]) -> None:
    """Its weights are there once, and it answers as before."""
    alone = HuggingFaceProposer.from_pretrained(saved["base"])
    shared = HuggingFaceProposer.from_pretrained(saved["base"])
    pair = GuidePair.from_adapter(shared, saved["adapter"])
    assert both_guides(pair)[0].lm.model is shared.lm.model
    for strategy in (ChunkBeamSearch(width=2, successors=2, chunk_tokens=3), EmulatedFineTuning()):
        texts = [
            W2SLLM(
                proposer=proposer, scorer=LogRatioScorer(own), strategy=strategy, max_tokens=9,
                seed=1,
            ).batch(["The movie", "A plot"])
            for proposer, own in ((alone, saved["two"]), (shared, pair), (shared, pair.swapped()))
        ]  # fmt: skip
        assert texts[0] == texts[1]
        assert texts[2] != texts[1], "control"


def test_from_yaml_and_back(saved: dict[str, Any]) -> None:
    config = {
        "proposer": {"model": saved["base"]},
        "guide": {"base": saved["base"], "adapter": saved["adapter"], "template": "A {prompt}"},
        "generation": {"max_tokens": 5, "seed": 0},
    }
    llm = W2SLLM.from_config(config)
    assert llm.scorer is not None
    assert isinstance(llm.proposer, HuggingFaceProposer)
    pair: Any = llm.scorer.pair
    assert pair.tuned.lm.model is pair.untuned.lm.model is llm.proposer.lm.model
    assert pair.tuned.spec.template == pair.untuned.spec.template == "A {prompt}"
    again = W2SLLM.from_config(llm.to_config())
    assert again.to_config() == llm.to_config()
    assert again._identifying_params == llm._identifying_params
    assert again.invoke("The movie") == llm.invoke("The movie")
    flat = W2SLLM.from_pretrained(
        saved["base"], tuned=saved["base"], tuned_adapter=saved["adapter"], untuned=saved["base"],
        guide_template="A {prompt}", max_tokens=5, seed=0,
    )  # fmt: skip
    assert flat._identifying_params == llm._identifying_params
    assert flat.scorer is not None
    assert isinstance(flat.proposer, HuggingFaceProposer)
    assert flat.scorer.pair.tuned.lm.model is flat.proposer.lm.model
    equal = {"tuned": saved["base"], "untuned": saved["base"]}
    plain = W2SLLM.from_config({**config, "guide": equal})
    assert plain._identifying_params != llm._identifying_params, "control"


# What is refused.


def changed(saved: dict[str, Any], folder: Path, **values: Any) -> Path:
    """A copy of the adapter with another config."""
    shutil.copytree(saved["adapter"], folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"bias": "all"},
        {"init_lora_weights": "pissa_niter_4"},
        {"megatron_config": {"a": 1}, "megatron_core": "os"},
        {"layer_replication": [[0, 2], [1, 2]]},
    ],
)
def test_what_cannot_be_switched_off_is_refused(
    saved: dict[str, Any], tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = changed(saved, tmp_path / "a", **values)
    with pytest.raises(
        UnsupportedModelError,
        match=r"adapter .*a. cannot .*: it (?!None).*; merge it into its base",
    ):
        GuidePair.from_adapter(saved["base"], folder)


def test_an_adapter_of_another_base(saved: dict[str, Any], tmp_path: Path) -> None:
    tiny.save_adapter(tmp_path / "wide", tiny.llama(320, hidden_size=64))
    tiny.save_adapter(tmp_path / "deep", tiny.llama(320, num_hidden_layers=3))
    proposer = HuggingFaceProposer.from_pretrained(saved["base"])
    before = proposer.paths.lm.model.state_dict()
    for name in ("wide", "deep"):
        with pytest.raises(ConfigError, match=name):
            GuidePair.from_adapter(proposer, tmp_path / name)
    assert proposer.lm.model.state_dict().keys() == before.keys(), "nothing is left of it"
    assert close(GuidePair.from_adapter(proposer, saved["adapter"]), saved["two"])


def test_pickled_weights_are_never_opened(saved: dict[str, Any], tmp_path: Path) -> None:
    folder = changed(saved, tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelNotFoundError, match=r"no adapter_model\.safetensors.*never opened"):
        GuidePair.from_adapter(saved["base"], folder)
    with pytest.raises(ModelNotFoundError, match="neither a file nor a folder"):
        GuidePair.from_adapter(saved["base"], tmp_path / "nowhere")
    (folder / "adapter_config.json").write_text("[")
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"adapter_config\.json .* cannot be read"):
        GuidePair.from_adapter(saved["base"], folder)


def test_an_adapter_of_the_hub(
    saved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the hub's cache has it: what was downloaded once needs no network."""
    cache = tmp_path / "models--owner--lora"
    shutil.copytree(saved["adapter"], cache / "snapshots" / ("a" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    with pytest.raises(ModelNotFoundError, match="owner/lora"):
        GuidePair.from_adapter(saved["base"], "owner/lora")
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path))
    assert close(GuidePair.from_adapter(saved["base"], "owner/lora"), saved["two"])
    (cache / "snapshots" / ("a" * 40) / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="owner/lora"):
        GuidePair.from_adapter(saved["base"], "owner/lora")


def test_without_peft_the_command_is_told(
    saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "peft":
            raise ModuleNotFoundError("No module named 'peft'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ConfigError, match=r"pip install 'w2s_chains\[lora\]'"):
        GuidePair.from_adapter(saved["base"], saved["adapter"])


def test_options_of_loading_with_a_loaded_model(saved: dict[str, Any]) -> None:
    proposer = HuggingFaceProposer.from_pretrained(saved["base"])
    with pytest.raises(ConfigError, match="'dtype' is for loading a model"):
        GuidePair.from_adapter(proposer, saved["adapter"], dtype="bfloat16")
