"""The device and the dtype of a model, and its options for ``from_pretrained``."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers.quantizers.auto import AutoHfQuantizer

from w2s_chains.backend.loading.config import Placement
from w2s_chains.backend.loading.locate import held_back
from w2s_chains.backend.loading.safety import check_attention
from w2s_chains.errors import ConfigError, brief

_quantizers = cast(Any, AutoHfQuantizer)  # it is only partly typed


def device_of(spec: Placement) -> torch.device:
    """Return the device of a model without ``device_map``.

    Raises:
        ConfigError: This machine has no such device.
    """
    if spec.device is not None and spec.device_map is not None:
        raise ConfigError(
            f"device={spec.device!r} and device_map={spec.device_map!r} exclude each other; "
            "give one of them"
        )
    try:
        device = torch.device(spec.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device {spec.device!r} is unknown: {brief(error)}") from error
    try:
        with held_back():
            torch.zeros(1, device=device).item()
    except Exception as error:
        raise ConfigError(
            f"device {spec.device!r} cannot be used on this machine: {brief(error)}; use 'cpu', "
            "or leave it out for the GPU if there is one"
        ) from error
    return device


def has_bfloat16_units() -> bool:
    """Return whether this CPU has units for matrices of bfloat16 (AMX, AVX-512 BF16)."""
    # torch knows, but under private names, which may go.
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def _dtype(spec: Placement, device: torch.device) -> torch.dtype | str:
    if spec.dtype is None:
        return torch.float32 if device.type == "cpu" and spec.device_map is None else "auto"
    if spec.dtype == "auto":
        if device.type != "cpu" or spec.device_map or spec.quantization_config is not None:
            return "auto"
        return torch.bfloat16 if has_bfloat16_units() else torch.float32
    dtype: Any = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(
            f"dtype {spec.dtype!r} is unknown; use float32, bfloat16, float16 or auto"
        )
    return dtype


def quantization_of(spec: Placement, config: Any) -> Any:
    """Return how weights are quantised: as asked, or as a checkpoint's config says; None if not.

    What is read from a GGUF file is dequantised.
    """
    if spec.quantization_config is not None:
        return spec.quantization_config
    own = getattr(config, "quantization_config", None)
    return None if own is None or _method(own) == "gguf" else own


def check_quantization(name: str, spec: Placement, config: Any) -> bool:
    """Check, before any weights are loaded, that quantised weights can be read here.

    Args:
        name: The model's name, for messages.
        spec: How it is to be loaded.
        config: Its config.

    Returns:
        Whether its weights are quantised.

    Raises:
        ConfigError: A package or a device is missing, or the method is unknown to transformers,
            which would load such weights as if they were not quantised.
    """
    how = quantization_of(spec, config)
    if how is None:
        return False
    asked = spec.quantization_config is not None
    try:
        with held_back():
            quantizer = _quantizers.from_config(copy.deepcopy(how), pre_quantized=not asked)
            quantizer.validate_environment(device_map=spec.device_map, dtype=None)
    except Exception as error:  # each method checks in its own way
        what = "is to be quantised" if asked else "has quantised weights"
        raise ConfigError(
            f"model {name!r} {what} ({_method(how)}), which cannot be done here: "
            f"{brief(error)}; install what is missing, or use "
            f"{'no quantization_config' if asked else 'a checkpoint that is not quantised'}"
        ) from error
    return True


def _method(how: Any) -> str:
    method: Any = how.quant_method if hasattr(how, "quant_method") else how.get("quant_method")
    return str(getattr(method, "value", method))


def options_of(spec: Placement, device: torch.device, *, quantized: bool = False) -> dict[str, Any]:
    """Return keyword arguments for ``from_pretrained``.

    Args:
        spec: How the model is to be loaded.
        device: Its device, unless it has a device map.
        quantized: Whether its weights are quantised, so that it cannot be moved afterwards.

    Raises:
        ConfigError: The dtype or the attention implementation is unknown.
    """
    if spec.attn_implementation is not None:
        check_attention(spec.attn_implementation, "this model's config")
    options = {
        "device_map": spec.device_map,
        "quantization_config": spec.quantization_config,
        "attn_implementation": spec.attn_implementation,
        "dtype": _dtype(spec, device),
    }
    if (quantized or spec.quantization_config is not None) and spec.device_map is None:
        options["device_map"] = {"": str(device)}
    return {name: value for name, value in options.items() if value is not None}
