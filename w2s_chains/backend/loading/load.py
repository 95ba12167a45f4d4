"""Load causal language models, or only their tokenizers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)

from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.lm.adapters import check_adapter
from w2s_chains.backend.lm.attention import check_pads
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.lm.planes import find_layers, find_windows
from w2s_chains.backend.lm.positions import check_border, longest_text, rope_border, text_config
from w2s_chains.backend.loading.config import Model, no_graphs_of_adapters
from w2s_chains.backend.loading.locate import (
    check_complete,
    clear_errors_of,
    locate,
    locate_adapter,
)
from w2s_chains.backend.loading.placement import (
    check_quantization,
    device_of,
    devices_of,
    dtype_of,
    options_of,
    quantization_of,
)
from w2s_chains.backend.loading.safety import check_safe
from w2s_chains.backend.loading.text_part import auto_class, text_part, weights_of
from w2s_chains.backend.text.generation import end_ids, suppressed_by
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.prompts import Prompt
from w2s_chains.errors import ConfigError, UnsupportedModelError, did_you_mean


def load(spec: Model) -> tuple[CausalLM, Tokenizer]:
    """Load a model and its tokenizer, from safetensors or GGUF only and without remote code.

    Raises:
        ModelNotFoundError: The model cannot be found.
        UnsupportedModelError: The model's cache cannot branch, which is raised before weights are
            loaded; or a way in which a search reads it gives other logits than one plain forward.
        ConfigError: Torch or this machine does not support an option.
    """
    config, text = preview(spec)
    device = device_of(spec)
    source, files = locate(spec.model, spec.revision)
    quantized = quantization_of(spec, config) is not None
    with clear_errors_of(spec.model):
        loaded = auto_class(spec.model, config).from_pretrained(
            source,
            config=config,
            **files,
            **options_of(spec, device, quantized=quantized),
            trust_remote_code=False,
            use_safetensors=None if "gguf_file" in files else True,
            output_loading_info=True,
        )
        whole, found = loaded
        model = text_part(spec.model, whole)
        missing = weights_of(model, whole, found["missing_keys"])
        check_complete(spec.model, {"missing_keys": missing}, "causal language model")
        del loaded, whole
        if spec.device_map is None and not quantized:
            model = model.to(device)
        if "gguf_file" in files:
            model.config.quantization_config = None  # weights of such a file are dequantised
        lm = CausalLM(model, cuda_graphs=spec.cuda_graphs)
    return share(lm, text, spec)


def share(lm: CausalLM, text: Tokenizer, spec: Model) -> tuple[CausalLM, Tokenizer]:
    """Build the model for ``spec`` with the weights it names, which are already loaded.

    Raises:
        ConfigError: The package peft is missing, or the adapter belongs to another model.
        ModelNotFoundError: There is no such adapter.
        UnsupportedModelError: The adapter cannot be on in some rows of a batch and off in others.
    """
    view = lm.view(spec.token_budget)
    if spec.adapter is not None:
        if lm.replays is not None:
            raise no_graphs_of_adapters(spec.adapter)
        with clear_errors_of(spec.adapter):
            view.adapter = lm.adapters.load(spec.adapter, locate_adapter(spec.adapter))
    return view, tokens(lm.model, text.hf_tokenizer, spec.prompt_template())


def preview(spec: Model) -> tuple[PreTrainedConfig, Tokenizer]:
    """Do all that ``load`` does except for the weights, to find errors in seconds.

    Broken weights, or weights missing on the hub, are not detected. Raises like ``load``.
    """
    options_of(spec, device_of(spec))
    source, files = locate(spec.model, spec.revision)
    with clear_errors_of(spec.model):
        config: PreTrainedConfig = cast(Any, AutoConfig).from_pretrained(
            source, **files, trust_remote_code=False
        )
        _override(config, spec)
        auto_class(spec.model, config)  # refuses what has no language model
        find_windows(config)  # refuses what cannot branch, before weights load
        check_safe(spec.model, source, files, config)
        check_quantization(spec.model, spec, config)
        check_pads(spec.attn_implementation or getattr(config, "_attn_implementation", None))
        if spec.adapter is not None:
            check_adapter(spec.adapter, locate_adapter(spec.adapter))
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(
            source, **files, trust_remote_code=False
        )
        try:
            generation = cast(Any, GenerationConfig).from_pretrained(
                source, revision=spec.revision or "main"
            )
        except OSError:  # the model has no generation config
            generation = cast(Any, GenerationConfig).from_model_config(config)
    return config, Tokenizer(
        tokenizer, spec.prompt_template(), end_ids(generation), suppressed_by(generation)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What is known of a model before its weights are loaded.

    Attributes:
        name: The model's name.
        tokenizer: Its tokenizer and prompt template.
        devices: Where its weights will lie.
        dtype: The dtype of its weights.
        parameters: Their number.
        weight_bytes: Their size in memory; None if that depends on how they are quantised.
        bytes_per_token: Keys and values of one token; None if only the weights can tell.
        bytes_per_branch: Recurrent states of one partial answer; 0 for most models.
        max_positions: Longest text in tokens; None if the config does not say.
        border: Longer texts are read in another way; see ``rope_border``.
        token_budget: Most columns of one batch.
        fetched: Whether weights are on this machine.
    """

    name: str
    tokenizer: Tokenizer
    devices: tuple[str, ...]
    dtype: str
    parameters: int
    weight_bytes: int | None
    bytes_per_token: int | None
    bytes_per_branch: int
    max_positions: int | None
    border: int | None
    token_budget: int
    fetched: bool

    def check_length(self, prompt: Prompt, more: int, role: str) -> None:
        """Check that the prompt and ``more`` tokens can be read, like a loaded model.

        Raises:
            PromptError: They cannot.
        """
        self.tokenizer.check_fits(prompt, more, self.max_positions, role)
        count = len(self.tokenizer.prompt_ids(prompt))
        check_border(self.name, self.border, count, count + more)


def outline(spec: Model) -> Outline:
    """Find out what can be known of a model without its weights; raises like ``preview``.

    A model without memory ("meta") is made of its config, and reads one token.
    """
    config, text = preview(spec)
    devices = devices_of(spec)
    source, files = locate(spec.model, spec.revision)
    dtype = dtype_of(spec, devices[0], config)
    with clear_errors_of(spec.model), torch.device("meta"):
        model = auto_class(spec.model, config).from_config(config, dtype=dtype)
        parameters = list(model.parameters())
    takes = inspect.signature(model.forward).parameters
    per_token, per_branch = None, 0
    try:
        planes, layers = find_layers(
            model.eval(), "cache" if "cache" in takes else "past_key_values", torch.device("meta")
        )
        per_token = sum(plane.bytes_per_token for plane in planes)
        per_branch = sum(part.empty.numel() * part.empty.itemsize for part in layers.parts)
    except UnsupportedModelError:
        pass  # code that looks at numbers: ``load`` tries it with weights
    size: int | None = sum(own.numel() * own.itemsize for own in parameters)
    if quantization_of(spec, config) is not None:
        stored = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
        size = None if spec.quantization_config is not None else stored or None
    return Outline(
        name=spec.model,
        tokenizer=text,
        devices=tuple(map(str, devices)),
        dtype=str(dtype).removeprefix("torch."),
        parameters=sum(own.numel() for own in parameters),
        weight_bytes=size,
        bytes_per_token=per_token,
        bytes_per_branch=per_branch,
        max_positions=longest_text(config),
        border=rope_border(config),
        token_budget=spec.token_budget,
        fetched=_fetched(source, files),
    )


def _fetched(source: str, files: dict[str, Any]) -> bool:
    if Path(source).is_dir():
        return True
    revision, gguf = files.get("revision"), files.get("gguf_file")
    names = [gguf] if gguf else ["model.safetensors", "model.safetensors.index.json"]
    return any(isinstance(try_to_load_from_cache(source, n, revision=revision), str) for n in names)


def load_tokens(name: str, template: PromptTemplate) -> Tokenizer:
    """Load only the tokenizer, for a model that runs elsewhere; raises like ``load``."""
    source, files = locate(name)
    with clear_errors_of(name):
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(
            source, **files, trust_remote_code=False
        )
        try:
            generation = cast(Any, GenerationConfig).from_pretrained(source)
        except OSError:  # the model has no generation config
            generation = None
    return Tokenizer(tokenizer, template, end_ids(generation))


def tokens(model: Any, tokenizer: Any, template: PromptTemplate) -> Tokenizer:
    """Wrap the tokenizer of a loaded model, with what its generation config says of tokens."""
    generation = getattr(model, "generation_config", None)
    return Tokenizer(tokenizer, template, end_ids(generation), suppressed_by(generation))


def _override(config: PreTrainedConfig, spec: Model) -> None:
    parts: list[PreTrainedConfig] = [text_config(config), config]
    known = {name: part for part in parts for name in part.to_dict()}
    for name, value in spec.config.items():
        if name not in known:
            raise ConfigError(
                f"the config of model {spec.model!r} has no field {name!r} to override"
                f"{did_you_mean(name, known)}"
            )
        setattr(known[name], name, value)
