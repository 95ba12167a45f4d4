"""Load models that judge whole texts."""

from __future__ import annotations

import re
from typing import Any, cast

from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
)

from w2s_chains.backend.classifiers.judge import Judge, JudgeOptions, ValueHeadWeights, longest_text
from w2s_chains.backend.loading.locate import check_complete, clear_errors_of, locate
from w2s_chains.backend.loading.placement import (
    check_quantization,
    device_of,
    options_of,
    quantization_of,
)
from w2s_chains.backend.loading.safety import check_safe
from w2s_chains.errors import ConfigError, did_you_mean


def preview_judge(options: JudgeOptions, head: ValueHeadWeights | None = None) -> PreTrainedConfig:
    """Do all that ``load_judge`` does except for the weights; return the model's config.

    Raises like ``load_judge``.
    """
    return _preview(options, head)[0]


_loaded: dict[str, Judge] = {}
"""The judge that was used last. Judges are large, and a comparison uses one after the other."""


def load_judge(options: JudgeOptions, head: ValueHeadWeights | None = None) -> Judge:
    """Load a model that judges texts, or return the one of the last call if it is the same.

    Args:
        options: Which model, and how it reads.
        head: The names of the weights, for a decoder with a value head that transformers does not
            know.

    Raises:
        ModelNotFoundError: There is no such model.
        UnsupportedModelError: The model needs code from its own repository.
        ConfigError: The model cannot judge texts, an option does not fit it, or its weights are
            quantised in a way that cannot be read here.
    """
    key = repr((*(getattr(options, name) for name in JudgeOptions.model_fields), head))
    if key not in _loaded:
        _loaded.clear()  # before, not after: there may be no room for two
        _loaded[key] = _load(options, head)
    return _loaded[key]


def _load(options: JudgeOptions, head: ValueHeadWeights | None) -> Judge:
    config, tokenizer = _preview(options, head)
    device = device_of(options)
    source, files = locate(options.model, options.revision)
    quantized = quantization_of(options, config) is not None
    with clear_errors_of(options.model):
        loaded = cast(Any, AutoModelForSequenceClassification).from_pretrained(
            source,
            config=config,
            **files,
            **options_of(options, device, quantized=quantized),
            key_mapping=None if head is None else _renamed(config, head),
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    model, found = loaded
    if head is None:
        check_complete(options.model, found, "sequence classifier")
    else:
        _check_head(options.model, found, head)
    if options.device_map is None and not quantized:
        model = model.to(device)
    return Judge(model, tokenizer, options, reads_last=head is not None)


def _preview(options: JudgeOptions, head: ValueHeadWeights | None) -> tuple[PreTrainedConfig, Any]:
    options_of(options, device_of(options))
    source, files = locate(options.model, options.revision)
    with clear_errors_of(options.model):
        config: PreTrainedConfig = cast(Any, AutoConfig).from_pretrained(
            source, **files, trust_remote_code=False
        )
        if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise ConfigError(
                f"model {options.model!r} cannot judge texts: transformers has no "
                f"AutoModelForSequenceClassification for {type(config).__name__}"
            )
    check_safe(options.model, source, files, config)
    check_quantization(options.model, options, config)
    if head is not None:
        config.num_labels = 1
    if options.tokenizer is not None:
        source, files = locate(options.tokenizer)
    with clear_errors_of(options.tokenizer or options.model):
        tokenizer = cast(Any, AutoTokenizer).from_pretrained(
            source, **files, trust_remote_code=False
        )
    if options.truncate is not None:
        tokenizer.truncation_side = options.truncate
    if options.chat and not tokenizer.chat_template:
        raise ConfigError(
            f"tokenizer of {options.tokenizer or options.model!r} has no chat template; set chat "
            "to false and give a template with '{prompt}' and '{answer}'"
        )
    longest_text(config, tokenizer, options)
    return config, tokenizer


def _renamed(config: PreTrainedConfig, head: ValueHeadWeights) -> dict[str, str]:
    """Map names in the files to the names of transformers' classifier of this architecture."""
    ours: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    body = ours.base_model_prefix
    names = {f"^{re.escape(head.head)}$": "score.weight"}
    if head.body is not None and head.body != body:
        names[rf"^{re.escape(head.body)}\."] = f"{body}."
    return names


def _check_head(name: str, found: dict[str, Any], head: ValueHeadWeights) -> None:
    missing, others = found["missing_keys"], sorted(found["unexpected_keys"])
    bias = head.head.removesuffix("weight") + "bias"
    if "score.weight" in missing and len(missing) == 1:
        raise ConfigError(
            f"the files of model {name!r} have no tensor {head.head!r} for the value head"
            f"{did_you_mean(head.head, others)}"
        )
    check_complete(
        name, found, "decoder with a value head whose other weights are named as body says"
    )
    if bias in others:
        raise ConfigError(f"the value head of model {name!r} has a bias, which is not supported")
