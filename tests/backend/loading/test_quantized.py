"""Weights that are quantised, or are to be: what loads, how far it is off, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, TorchAoConfig

from tests.helpers import tiny
from tests.helpers.loading import refused
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
    Model,
)
from w2s_chains.backend.classifiers.judge import JudgeOptions
from w2s_chains.backend.classifiers.load import load_judge, preview_judge
from w2s_chains.backend.loading.load import load, preview
from w2s_chains.backend.loading.placement import check_quantization, quantization_of
from w2s_chains.errors import ConfigError

IDS = torch.tensor([[40, 50, 60, 70, 45, 55, 65, 75]])


def says(folder: Path, quantization: Any) -> Path:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), "quantization_config": quantization}
    file.write_text(json.dumps(config))
    return folder


def logits(lm: Any) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=IDS).logits.float()


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# What is refused, before weights load.


@pytest.mark.parametrize(
    ("quantization", "package"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "quanto", "weights": "int8"}, "optimum-quanto"),
        (
            {
                "quant_method": "compressed-tensors", "format": "int-quantized",
                "config_groups": {},
            },
            "compressed-tensors",
        ),
    ],
)  # fmt: skip
def test_a_missing_package_is_named(
    folder: Path, quantization: dict[str, Any], package: str, no_weights: None
) -> None:
    if any(dist.name == package for dist in importlib.metadata.distributions()):
        pytest.skip(f"the package {package} is installed")
    method = quantization["quant_method"]
    message = refused(
        ConfigError, str(folder), f"has quantised weights ({method})", package, "not quantised",
        model=str(says(folder, quantization)),
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        preview(Model(str(folder)))
    assert str(caught.value) == message


def test_an_unknown_method_is_refused(folder: Path, no_weights: None) -> None:
    """transformers would go on with the weights as they are."""
    model = str(says(folder, {"quant_method": "own"}))
    refused(ConfigError, "quantised weights (own)", "Unknown quantization type", model=model)


@pytest.mark.parametrize("method", ["gptq", "own"])
def test_a_reward_model_is_refused_by_the_same_check(
    folder: Path, method: str, no_weights: None
) -> None:
    options = JudgeOptions(model=str(folder))
    assert preview_judge(options), "control"
    says(folder, {"quant_method": method, "bits": 4})
    message = refused(ConfigError, f"has quantised weights ({method})", model=str(folder))
    for check in (preview_judge, load_judge):
        with pytest.raises(ConfigError) as caught:
            check(options)
        assert str(caught.value) == message


def test_what_is_not_quantised_is_not_checked(folder: Path) -> None:
    config, _ = preview(Model(str(folder)))
    assert not check_quantization("x", Model(str(folder)), config)
    assert not load(Model(str(folder)))[0].model.config.to_dict().get("quantization_config")
    config.quantization_config = {"quant_method": "gguf"}
    assert quantization_of(Model(str(folder)), config) is None


# torchao on a CPU.


def test_int8_weights_on_a_cpu(tmp_path: Path) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    tiny.llama(320, hidden_size=64).save_pretrained(tmp_path / "plain")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "plain")
    plain, _ = load(Model(str(tmp_path / "plain")))
    how = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    spec = Model(str(tmp_path / "plain"), quantization_config=how, chat=False)
    lm, text = load(spec)
    assert 0 < apart(logits(lm), logits(plain)) < 0.1
    assert lm.can_branch

    lm.model.save_pretrained(tmp_path / "int8")
    text.hf_tokenizer.save_pretrained(tmp_path / "int8")
    again = Model(str(tmp_path / "int8"), chat=False)
    assert apart(logits(load(again)[0]), logits(lm)) < 1e-5, "the checkpoint says how"

    guides = [HuggingFaceGuide.from_spec(one) for one in (again, Model(str(tmp_path / "plain")))]
    llm = W2SLLM(
        proposer=HuggingFaceProposer.from_spec(again),
        scorer=LogRatioScorer(GuidePair(*guides)), max_tokens=8, seed=0,
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=3),
    )  # fmt: skip
    assert isinstance(llm.invoke("The movie"), str)


# GGUF.


def write_gguf(model: Any, tokenizer: Any, file: Path) -> None:
    """Write a tiny Qwen 3 in float32 as llama.cpp would.

    transformers takes heads of 128 for granted.
    """
    config, vocabulary = model.config, tokenizer.get_vocab()
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges] or ["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        own = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(str(own), weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read_exactly(tmp_path: Path) -> None:
    config = Qwen3Config(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, head_dim=128,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512,
        initializer_range=0.3, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    write_gguf(model, tiny.byte_tokenizer(), tmp_path / "tiny.gguf")
    lm, text = load(Model(str(tmp_path / "tiny.gguf"), chat=False))
    with torch.inference_mode():
        assert apart(logits(lm), model(IDS).logits) < 1e-5
    assert lm.model.config.quantization_config is None, "or 2% of difference were rounding"
    assert 1 in text.end_ids
