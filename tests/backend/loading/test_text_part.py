"""Models that also read images are read as language models, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import multimodal, tiny
from tests.helpers.loading import refused
from w2s_chains import W2SLLM, HuggingFaceProposer, Model, Sampling
from w2s_chains.backend.loading.load import load, preview
from w2s_chains.backend.loading.text_part import TextPart
from w2s_chains.errors import ConfigError, UnsupportedModelError

IDS = torch.tensor([[40, 50, 60, 70, 45, 55, 65, 75, 42, 52, 62, 72, 47, 57, 67, 77]])
"""Longer than windows."""


def saved(kind: str, folder: Path) -> Any:
    whole = multimodal.tiny(kind)
    whole.save_pretrained(folder)
    tiny.byte_tokenizer().save_pretrained(folder)
    return whole


def plain(whole: Any) -> torch.Tensor:
    with torch.inference_mode():
        hidden = whole.get_decoder() if "Llama4" in type(whole).__name__ else whole
        return hidden(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("kind", [kind for kind in multimodal.KINDS if kind != "PaliGemma"])
def test_the_language_model_inside_gives_the_logits_of_the_whole(kind: str, tmp_path: Path) -> None:
    whole = saved(kind, tmp_path)
    spec = Model(str(tmp_path), chat=False)
    config, _ = preview(spec)
    assert type(config) is type(whole.config)
    lm, text = load(spec)
    wanted = plain(whole)
    with torch.inference_mode():
        found = lm.model(input_ids=IDS).logits
    assert torch.allclose(found, wanted, atol=1e-4)
    assert not torch.allclose(found.roll(1, dims=1), wanted, atol=0.5), "control"
    names = {name for name, _ in lm.model.named_parameters()}
    assert not [name for name in names if "vis" in name or "proj" in name.split(".")[0]]
    count = sum(weight.numel() for weight in lm.model.parameters())
    assert count < sum(weight.numel() for weight in whole.parameters()), "only text is kept"
    llm = W2SLLM(
        proposer=HuggingFaceProposer.from_spec(spec), strategy=Sampling(), max_tokens=5, seed=0
    )
    assert isinstance(llm.invoke("The movie"), str)
    assert text.end_ids == (1,)


def test_a_decoder_without_a_class_of_its_own_gets_ours(tmp_path: Path) -> None:
    saved("Qwen2_5_VL", tmp_path / "qwen")
    assert type(load(Model(str(tmp_path / "qwen")))[0].model) is TextPart
    saved("Gemma3", tmp_path / "gemma")
    assert type(load(Model(str(tmp_path / "gemma")))[0].model).__name__ == "Gemma3ForCausalLM"


def test_siblings_share_rows_as_in_the_language_model_alone(tmp_path: Path) -> None:
    for kind in ("Qwen2VL", "Gemma3", "Mistral3"):
        saved(kind, tmp_path / kind)
        assert load(Model(str(tmp_path / kind)))[0].can_branch


def test_missing_weights_of_the_text_are_refused_and_others_are_not(tmp_path: Path) -> None:
    saved("Llava", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    seen = {name: own for name, own in weights.items() if "multi_modal_projector" not in name}
    assert len(seen) < len(weights)
    save_file(seen, file, {"format": "pt"})
    load(Model(str(tmp_path)))
    lost = next(name for name in seen if name.endswith("layers.1.mlp.up_proj.weight"))
    save_file({name: own for name, own in seen.items() if name != lost}, file, {"format": "pt"})
    refused(
        ConfigError, "no weights for", "layers.1.mlp.up_proj.weight", "complete checkpoint",
        model=str(tmp_path),
    )  # fmt: skip


def test_a_part_that_gives_other_logits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved("Qwen2VL", tmp_path)
    forward = type(whole).forward

    def scaled(*args: Any, **options: Any) -> Any:
        found = forward(*args, **options)
        found.logits = found.logits.flip(-1)
        return found

    monkeypatch.setattr(type(whole), "forward", scaled)
    refused(
        UnsupportedModelError, str(tmp_path), "reads more than text",
        "TextPart gives logits that differ by", "a folder of its own", model=str(tmp_path),
    )  # fmt: skip


def test_a_whole_that_cannot_read_text_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = saved("SmolVLM", tmp_path)

    def fail(*args: Any, **options: Any) -> Any:
        raise ValueError("give an image")

    monkeypatch.setattr(type(whole), "forward", fail)
    refused(UnsupportedModelError, "reads more than text", "give an image", model=str(tmp_path))


def test_fields_of_the_text_config_can_be_overridden(tmp_path: Path) -> None:
    saved("Gemma3", tmp_path)
    assert load(Model(str(tmp_path)))[0].model.config.sliding_window == 12
    lm, _ = load(Model(str(tmp_path), config={"sliding_window": 20}))
    assert lm.model.config.sliding_window == 20
    refused(
        ConfigError, "no field 'sliding_windov'", model=str(tmp_path), config={"sliding_windov": 1}
    )


def test_options_reach_the_text_part(tmp_path: Path) -> None:
    saved("Mistral3", tmp_path)
    lm, _ = load(Model(str(tmp_path), dtype="bfloat16", attn_implementation="eager"))
    assert {weight.dtype for weight in lm.model.parameters()} == {torch.bfloat16}
    assert lm.model.config._attn_implementation == "eager"
    assert lm.name == str(tmp_path)


def test_a_text_that_is_read_in_both_directions_is_refused(tmp_path: Path) -> None:
    saved("PaliGemma", tmp_path)
    refused(UnsupportedModelError, "does not read from left to right", model=str(tmp_path))


def test_what_transformers_reads_in_another_way_alone_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own class of the text scales the logits of Cohere 2, and the whole does not."""
    saved("AyaVision", tmp_path / "aya")
    load(Model(str(tmp_path / "aya")))
    assert "Cohere2ForCausalLM gives logits that differ" in caplog.text
    caplog.clear()
    saved("Llava", tmp_path / "llava")
    load(Model(str(tmp_path / "llava")))
    assert "differ" not in caplog.text, "control"
