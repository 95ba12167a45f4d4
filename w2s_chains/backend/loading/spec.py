"""What a config says of a model: which one, where to, and how it reads a prompt."""

from __future__ import annotations

import os
from typing import Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from w2s_chains.backend.lm.causal_lm import DEFAULT_TOKEN_BUDGET
from w2s_chains.backend.text.template import PromptTemplate
from w2s_chains.errors import ConfigError, brief


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


ModelName = Annotated[str, Field(min_length=1), BeforeValidator(_as_text)]
"""Hub id, local folder, GGUF file, or ``embedded:NAME``."""


class Placement(BaseModel):
    """Which version of a model is loaded, and where to.

    Attributes:
        revision: Branch, tag or commit on the hub.
        device: "cpu", "cuda", "cuda:1", ...; by default the GPU if there is one.
        device_map: Spreads one model over several devices; instead of ``device``.
        dtype: "float32", "bfloat16", "float16" or "auto"; by default float32 on a CPU and the
            checkpoint's own on a GPU.
        quantization_config: Passed to transformers.
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    revision: str | None = None
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    dtype: str | None = None
    quantization_config: Any = None
    attn_implementation: str | None = None


class ModelOptions(PromptTemplate, Placement):
    """How a causal language model is loaded, and how it reads a prompt.

    Attributes:
        config: Overrides of the model's own config, such as ``{sliding_window: null}``.
        token_budget: Most tokens of one batch, cached ones included.
    """

    config: dict[str, Any] = {}
    token_budget: int = Field(default=DEFAULT_TOKEN_BUDGET, ge=1)

    def __hash__(self) -> int:
        return hash(repr(self))  # some fields hold mappings


class Model(ModelOptions):
    """Which model, how it is loaded, and how it reads a prompt.

    Attributes:
        model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
        adapter: A LoRA adapter on top of it: hub id or local folder. Needs the package peft.
    """

    model: ModelName
    adapter: ModelName | None = None

    @property
    def weights(self) -> str:
        """Equal where one copy of the weights will do: adapters and prompts may differ."""
        names = ("model", "config", *Placement.model_fields)
        return repr([getattr(self, name) for name in names])

    def prompt_template(self) -> PromptTemplate:
        return PromptTemplate(template=self.template, chat=self.chat, system=self.system)


def device_of(spec: Placement) -> torch.device:
    """Where a model goes, if ``device_map`` says nothing else.

    Raises:
        ConfigError: There is no such device on this machine.
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
        torch.zeros(1, device=device).item()
    except Exception as error:
        raise ConfigError(
            f"device {spec.device!r} cannot be used on this machine: {brief(error)}; use 'cpu', "
            "or leave it out for the GPU if there is one"
        ) from error
    return device


def _dtype(spec: Placement, device: torch.device) -> torch.dtype | str:
    if spec.dtype is None:
        return torch.float32 if device.type == "cpu" and spec.device_map is None else "auto"
    if spec.dtype == "auto":
        return "auto"
    dtype: Any = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(
            f"dtype {spec.dtype!r} is unknown; use float32, bfloat16, float16 or auto"
        )
    return dtype


def options_of(spec: Placement, device: torch.device) -> dict[str, Any]:
    """Keyword arguments for ``from_pretrained``.

    Raises:
        ConfigError: The dtype is unknown.
    """
    options = {
        "device_map": spec.device_map,
        "quantization_config": spec.quantization_config,
        "attn_implementation": spec.attn_implementation,
        "dtype": _dtype(spec, device),
    }
    if spec.quantization_config is not None and spec.device_map is None:
        options["device_map"] = {"": str(device)}
    return {name: value for name, value in options.items() if value is not None}
