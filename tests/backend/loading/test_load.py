"""Loading models: what works, and what is refused before it costs anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, T5Config

from tests.helpers import tiny
from tests.helpers.loading import as_prompt, refused
from w2s_chains import W2SLLM, HuggingFaceProposer, Sampling
from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import load, preview
from w2s_chains.backend.loading.placement import has_bfloat16_units
from w2s_chains.errors import ConfigError, ModelNotFoundError, UnsupportedModelError, W2SError

# What works.


@pytest.mark.parametrize("name", ["proposer", "gpt2"])
def test_a_local_folder(tiny_folders: dict[str, Path], name: str) -> None:
    lm, text = load(Model(model=str(tiny_folders[name])))
    assert lm.model.dtype == torch.float32
    assert lm.device.type == "cpu"
    assert not lm.model.training
    ids = torch.tensor([text.prompt_ids(as_prompt("The movie"))])
    original = {"proposer": tiny.llama(320), "gpt2": tiny.gpt2(320, seed=3)}[name]
    with torch.inference_mode():
        assert torch.allclose(lm.model(ids).logits, original(ids).logits, atol=1e-5)
        control = tiny.llama(320, seed=5)(ids).logits
        assert not torch.allclose(lm.model(ids).logits, control, atol=1e-2)


def test_a_path_object_and_a_home_folder(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folders["proposer"]
    assert Model(model=folder).model == str(folder)
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load(Model(model="~/proposer"))[0].max_positions == 512
    monkeypatch.chdir(folder.parent)
    assert load(Model(model="proposer"))[0].max_positions == 512, "a folder wins over the hub"


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({"device": "cpu"}, torch.float32),
        ({"attn_implementation": "eager"}, torch.float32),
    ],
)
def test_options_reach_the_model(
    tiny_folders: dict[str, Path], options: dict[str, Any], dtype: torch.dtype
) -> None:
    proposer = HuggingFaceProposer.from_pretrained(str(tiny_folders["proposer"]), **options)
    assert proposer.lm.model.dtype == dtype
    assert proposer.spec is not None
    assert proposer.spec.model_dump(exclude_defaults=True) == {
        "model": str(tiny_folders["proposer"]),
        **options,
    }
    if "attn_implementation" in options:
        assert proposer.lm.model.config._attn_implementation == "eager"
    llm = W2SLLM(proposer=proposer, strategy=Sampling(), max_tokens=5, seed=0)
    assert isinstance(llm.invoke("The movie"), str)


@pytest.mark.parametrize("units", [True, False])
def test_auto_is_bfloat16_on_a_cpu_with_units_for_it(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, units: bool
) -> None:
    monkeypatch.setattr("w2s_chains.backend.loading.placement.has_bfloat16_units", lambda: units)
    folder = str(tiny_folders["proposer"])
    proposer = HuggingFaceProposer.from_pretrained(folder, dtype="auto", device="cpu")
    assert proposer.lm.dtype == (torch.bfloat16 if units else torch.float32)
    plain = HuggingFaceProposer.from_pretrained(folder, device="cpu")
    assert plain.lm.dtype == torch.float32, "exactness is promised by default"


def test_units_for_bfloat16_are_those_that_the_kernel_names() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "flags" not in flags:
        pytest.skip("the kernel names no units of the CPU")
    assert has_bfloat16_units() is ("amx_tile" in flags or "avx512_bf16" in flags)


def test_a_chat_model_needs_a_chat_template(folder: Path) -> None:
    _, text = load(Model(model=str(folder), chat=True, system="Be kind."))
    rendered = text.hf_tokenizer.decode(text.prompt_ids(as_prompt("hi")))
    assert rendered.startswith("<|im_start|>system\nBe kind.<|im_end|>")
    (folder / "chat_template.jinja").unlink()
    refused(ConfigError, "no chat template", "set chat to false", model=str(folder), chat=True)


# A preview.


def test_a_preview_is_what_is_loaded(tiny_folders: dict[str, Path]) -> None:
    for name in ("proposer", "gpt2"):
        spec = Model(model=str(tiny_folders[name]))
        lm, text = load(spec)
        config, seen = preview(spec)
        assert config.to_dict() | {"dtype": None} == lm.model.config.to_dict() | {"dtype": None}
        assert seen.vocabulary == text.vocabulary
        assert seen.end_ids == text.end_ids
        assert seen.prompt_ids(as_prompt("The movie")) == text.prompt_ids(as_prompt("The movie"))


def test_a_preview_knows_all_end_tokens(folder: Path) -> None:
    spec = Model(model=str(folder))
    assert preview(spec)[1].end_ids == load(spec)[1].end_ids == (1,)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [1, 3]}))
    assert preview(spec)[1].end_ids == load(spec)[1].end_ids == (1, 3)
    file.unlink()
    assert preview(spec)[1].end_ids == load(spec)[1].end_ids == (1,)


# What is broken.


def _write(name: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def _grow(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))


def _deepen(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))


def _only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny.llama(320).state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "error", "parts"),
    [
        (_write("config.json", "{"), ModelNotFoundError, ["config", "JSON"]),
        (lambda f: (f / "config.json").unlink(), ConfigError, ["model_type"]),
        (_write("config.json", '{"model_type": "nope"}'), ConfigError, ["nope"]),
        (lambda f: T5Config().save_pretrained(f), ConfigError, ["T5Config", "CausalLM"]),
        (
            _write("config.json", '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}'),
            UnsupportedModelError, ["needs code", "never"],
        ),
        (lambda f: (f / "model.safetensors").unlink(), ModelNotFoundError, ["safetensors"]),
        (_only_pickled, ModelNotFoundError, ["safetensors"]),
        (_write("model.safetensors", b"hello"), ConfigError, ["deserializing"]),
        (_write("tokenizer.json", "{"), ConfigError, ["line 1"]),
        (_grow, ConfigError, ["mismatched"]),
        (_deepen, ConfigError, ["no weights for", "model.layers.2", "complete checkpoint"]),
    ],
    ids=[
        "broken config", "no config", "unknown type", "encoder-decoder", "own code", "no weights",
        "pickled weights", "broken weights", "broken tokenizer", "other shapes", "missing layer",
    ],
)  # fmt: skip
def test_a_broken_folder(
    folder: Path,
    damage: Callable[[Path], Any],
    error: type[W2SError],
    parts: list[str],
    request: pytest.FixtureRequest,
) -> None:
    damage(folder)
    message = refused(error, str(folder), *parts, model=str(folder))
    request.getfixturevalue("no_weights")
    if request.node.callspec.id in ("broken weights", "other shapes", "missing layer"):
        preview(Model(model=str(folder)))  # what only the weights tell
    else:
        with pytest.raises(error) as caught:
            preview(Model(model=str(folder)))
        assert str(caught.value) == message


def test_a_base_model_without_head_is_refused(folder: Path) -> None:
    """Or its head would be random, and the scores noise."""
    tiny.llama(320).model.save_pretrained(folder)
    refused(ConfigError, "no weights for lm_head.weight", "random", model=str(folder))


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    """Control for the test above."""
    for name, model in {
        "llama": tiny.llama(320, tie_word_embeddings=True),
        "gpt2": tiny.gpt2(320),
    }.items():
        model.save_pretrained(tmp_path / name)
        tiny.byte_tokenizer().save_pretrained(tmp_path / name)
        load(Model(model=str(tmp_path / name)))
    assert GPT2Config().tie_word_embeddings


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUFgarbage" * 10, b"no gguf at all"])
def test_a_broken_gguf(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    refused(ConfigError, str(file), "cannot be loaded", model=str(file))


# Devices, dtypes and packages.


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"device": "gpu"}, ["device 'gpu' is unknown", "cuda"]),
        ({"device": "meta"}, ["device 'meta' cannot be used", "'cpu'"]),
        ({"device": "cpu", "device_map": "auto"}, ["exclude each other", "'cpu'", "'auto'"]),
        ({"dtype": "flaot32"}, ["dtype 'flaot32' is unknown", "bfloat16"]),
        ({"dtype": "int8"}, ["dtype 'int8' is unknown", "float32"]),
        ({"dtype": "nn"}, ["dtype 'nn' is unknown"]),
        ({"attn_implementation": "none"}, ["attn_implementation", "sdpa"]),
        ({"quantization_config": {"quant_method": "none"}}, ["quantization", "none"]),
    ],
)
def test_an_option_that_cannot_be(
    tiny_folders: dict[str, Path], options: dict[str, Any], parts: list[str]
) -> None:
    refused(ConfigError, *parts, model=str(tiny_folders["proposer"]), **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny_folders: dict[str, Path], no_weights: None) -> None:
    for device in ("cuda", "cuda:3", "mps"):
        refused(
            ConfigError, f"device {device!r} cannot be used", "use 'cpu'",
            model=str(tiny_folders["proposer"]), device=device,
        )  # fmt: skip


def test_a_missing_package_is_named(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ImportError("FlashAttention2 cannot be used:\nthe package is not installed.")

    monkeypatch.setattr(
        "w2s_chains.backend.loading.text_part.AutoModelForCausalLM.from_pretrained",
        staticmethod(fail),
    )
    model = str(tiny_folders["proposer"])
    refused(ConfigError, model, "cannot be used: the package is not installed", model=model)
