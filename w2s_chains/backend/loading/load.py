"""Load causal language models, or only their tokenizers."""

from __future__ import annotations

from typing import Any, cast

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
from w2s_chains.backend.lm.planes import find_windows
from w2s_chains.backend.lm.positions import text_config
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
    options_of,
    quantization_of,
)
from w2s_chains.backend.loading.safety import check_safe
from w2s_chains.backend.loading.text_part import auto_class, text_part, weights_of
from w2s_chains.backend.text.generation import end_ids, suppressed_by
from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.errors import ConfigError, did_you_mean


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
