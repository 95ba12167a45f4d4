"""The device and the dtype of a model, and its options for ``from_pretrained``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from transformers.quantizers.auto import AutoHfQuantizer

from w2s_chains.backend.loading.config import Placement
from w2s_chains.backend.loading.locate import held_back
from w2s_chains.backend.loading.safety import check_attention
from w2s_chains.errors import ConfigError, brief

_quantizers = cast(Any, AutoHfQuantizer)  # it is only partly typed
_CGROUP = Path("/sys/fs/cgroup")


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


def devices_of(spec: Placement) -> list[torch.device]:
    """Return the devices of a model: with ``device_map`` all GPUs, or the CPU if there are none.

    Raises:
        ConfigError: This machine has no such device.
    """
    if spec.device_map is None or not torch.cuda.is_available():
        return [device_of(spec) if spec.device_map is None else torch.device("cpu")]
    return [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


def free_bytes(device: torch.device | str) -> int | None:
    """Return the memory that is free on a device; on a CPU what the container allows, too.

    Returns:
        Bytes; None for a kind of device that does not tell.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if kind != "cpu":
        return None
    free: int = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(stat["inactive_file"]))  # a cache, given back at need
    except (OSError, ValueError, KeyError):  # no such limit
        return free


def dtype_of(spec: Placement, device: torch.device, config: Any) -> torch.dtype:
    """Return the dtype that a model's weights will have.

    Raises:
        ConfigError: The dtype is unknown.
    """
    found = _dtype(spec, device)
    own: Any = getattr(config, "dtype", None)
    return found if isinstance(found, torch.dtype) else own or torch.float32


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
