"""The device and the dtype of a model, and its options for ``from_pretrained``."""

from __future__ import annotations

from typing import Any

import torch

from w2s_chains.backend.loading.config import Placement
from w2s_chains.backend.loading.locate import held_back
from w2s_chains.backend.loading.safety import check_attention
from w2s_chains.errors import ConfigError, brief


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


def options_of(spec: Placement, device: torch.device) -> dict[str, Any]:
    """Return keyword arguments for ``from_pretrained``.

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
    if spec.quantization_config is not None and spec.device_map is None:
        options["device_map"] = {"": str(device)}
    return {name: value for name, value in options.items() if value is not None}
