"""Finds and loads models: hub ids, local folders, GGUF files, and ``embedded:NAME``."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from pydantic import BeforeValidator, ConfigDict, Field
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from w2s_chains.backend.causal_lm import DEFAULT_TOKEN_BUDGET, CausalLM, check_branchable
from w2s_chains.backend.embedded import embedded_path
from w2s_chains.backend.text import PromptTemplate, TextTokens
from w2s_chains.errors import ConfigError, ModelNotFoundError, UnsupportedModelError, W2SError

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_TIMEOUT = 10.0
"""Seconds to wait for a hub that does not answer."""


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


ModelName = Annotated[str, Field(min_length=1), BeforeValidator(_as_text)]
"""Hub id, local folder, GGUF file, or ``embedded:NAME``."""


class ModelOptions(PromptTemplate):
    """How a model is loaded, and how it reads a prompt.

    Attributes:
        revision: Branch, tag or commit on the hub.
        device: "cpu", "cuda", "cuda:1", ...; by default the GPU if there is one.
        device_map: Spreads one model over several devices; instead of ``device``.
        dtype: "float32", "bfloat16", "float16" or "auto"; by default float32 on a CPU and the
            checkpoint's own on a GPU.
        quantization_config: Passed to transformers.
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...
        token_budget: Most tokens of one batch, cached ones included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    revision: str | None = None
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    dtype: str | None = None
    quantization_config: Any = None
    attn_implementation: str | None = None
    token_budget: int = Field(default=DEFAULT_TOKEN_BUDGET, ge=1)


class ModelSpec(ModelOptions):
    """Which model, how it is loaded, and how it reads a prompt.

    Attributes:
        model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
    """

    model: ModelName

    def prompt_template(self) -> PromptTemplate:
        return PromptTemplate(template=self.template, chat=self.chat, system=self.system)


def load(spec: ModelSpec) -> tuple[CausalLM, TextTokens]:
    """Load a model and its tokenizer; nothing but safetensors or GGUF, and no remote code.

    Raises:
        ModelNotFoundError: The reference leads nowhere.
        UnsupportedModelError: The model's cache cannot branch; found before weights are loaded.
        ConfigError: An option is unknown to torch or to this machine.
    """
    device = _device(spec)
    dtype = _dtype(spec, device)
    source, files = _locate(spec)
    common = {**files, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source, **common)
        check_branchable(config)
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            **common,
            **_options(spec, device),
            dtype=dtype,
            use_safetensors=None if "gguf_file" in files else True,
            output_loading_info=True,
        )
    except W2SError:
        raise
    except OSError as error:
        raise ModelNotFoundError(
            f"model {spec.model!r} cannot be loaded: {_brief(error)}; give a hub id that you "
            "can reach, a local folder with config.json, *.safetensors and a tokenizer, a .gguf "
            "file, or 'embedded:NAME'"
        ) from error
    except Exception as error:  # whatever a broken file or a missing package makes transformers do
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"model {spec.model!r} needs code from its own repository, which w2s_chains never "
                "runs; use a model that transformers itself supports"
            ) from error
        raise ConfigError(f"model {spec.model!r} cannot be loaded: {_brief(error)}") from error
    model, found = loaded
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"model {spec.model!r} is no causal language model: its files have no weights for "
            f"{_brief(', '.join(missing))}, which would be random; give a complete checkpoint"
        )
    if spec.device_map is None and spec.quantization_config is None:
        model = model.to(device)
    return CausalLM(model, spec.token_budget), tokens(model, tokenizer, spec.prompt_template())


def tokens(model: Any, tokenizer: Any, template: PromptTemplate) -> TextTokens:
    """The tokenizer and template of a loaded model, with all end tokens that the model knows."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return TextTokens(tokenizer, template, ends)


def _locate(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """What to give to ``from_pretrained``: a folder or hub id, and which file or revision."""
    name = spec.model
    path = Path(name).expanduser()
    if name.startswith("embedded:"):
        found = str(embedded_path(name.removeprefix("embedded:"))), {}
    elif path.suffix == ".gguf" and path.is_file():
        found = str(path.parent), {"gguf_file": path.name}
    elif path.is_dir():
        found = str(path), {}
    elif path.suffix == ".gguf" or not _HUB_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"model {name!r} is neither a file nor a folder here, and no hub id (owner/name); "
            "check the path, or use 'embedded:NAME' for a model that comes with w2s_chains"
        )
    else:
        _reach_hub(name, spec.revision)
        return name, {} if spec.revision is None else {"revision": spec.revision}
    if spec.revision is not None:
        raise ConfigError(
            f"revision {spec.revision!r} is for a model on the hub, but {name!r} is not one; "
            "leave it out"
        )
    return found


def _reach_hub(name: str, revision: str | None) -> None:
    """Raise ModelNotFoundError if the model is not cached and no hub can be reached.

    Without this, huggingface_hub tries again and again, which takes half a minute.
    """
    if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        get_hf_file_metadata(
            hf_hub_url(name, "config.json", revision=revision), timeout=_HUB_TIMEOUT
        )
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ModelNotFoundError(
            f"model {name!r} is no file or folder here, not in the hub's cache, and the hub cannot "
            f"be reached: {_brief(error)}; check the name and the network, or use 'embedded:NAME' "
            "for a model that comes with w2s_chains"
        ) from error
    except Exception:  # from_pretrained tells, in its own words, what is wrong with the model
        return


def _device(spec: ModelSpec) -> torch.device:
    if spec.device is not None and spec.device_map is not None:
        raise ConfigError(
            f"device={spec.device!r} and device_map={spec.device_map!r} exclude each other; "
            "give one of them"
        )
    try:
        device = torch.device(spec.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device {spec.device!r} is unknown: {_brief(error)}") from error
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:
        raise ConfigError(
            f"device {spec.device!r} cannot be used on this machine: {_brief(error)}; use 'cpu', "
            "or leave it out for the GPU if there is one"
        ) from error
    return device


def _dtype(spec: ModelSpec, device: torch.device) -> torch.dtype | str:
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


def _options(spec: ModelSpec, device: torch.device) -> dict[str, Any]:
    options = {
        "device_map": spec.device_map,
        "quantization_config": spec.quantization_config,
        "attn_implementation": spec.attn_implementation,
    }
    if spec.quantization_config is not None and spec.device_map is None:
        options["device_map"] = {"": str(device)}
    return {name: value for name, value in options.items() if value is not None}


def _brief(error: BaseException | str) -> str:
    """A message of somebody else on one line of ours."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".")
