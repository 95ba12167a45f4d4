"""Finds and loads models: hub ids, local folders, GGUF files, and ``embedded:NAME``."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
)

from w2s_chains.backend.adapters import CONFIG, WEIGHTS, check_adapter
from w2s_chains.backend.causal_lm import DEFAULT_TOKEN_BUDGET, CausalLM, check_branchable
from w2s_chains.backend.embedded import embedded_path
from w2s_chains.backend.text import PromptTemplate, TextTokens
from w2s_chains.errors import ConfigError, ModelNotFoundError, UnsupportedModelError, W2SError
from w2s_chains.plugins import did_you_mean
from w2s_chains.user_files import local_path

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_HUB_TIMEOUT = 10.0
"""Seconds to wait for a hub that does not answer."""


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


class ModelSpec(ModelOptions):
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


def load(spec: ModelSpec) -> tuple[CausalLM, TextTokens]:
    """Load a model and its tokenizer; nothing but safetensors or GGUF, and no remote code.

    Raises:
        ModelNotFoundError: The reference leads nowhere.
        UnsupportedModelError: The model's cache cannot branch; found before weights are loaded.
        ConfigError: An option is unknown to torch or to this machine.
    """
    config, text = preview(spec)
    device = device_of(spec)
    source, files = locate(spec.model, spec.revision)
    with clear_errors_of(spec.model):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            **files,
            **options_of(spec, device),
            trust_remote_code=False,
            use_safetensors=None if "gguf_file" in files else True,
            output_loading_info=True,
        )
    model, found = loaded
    check_complete(spec.model, found, "causal language model")
    if spec.device_map is None and spec.quantization_config is None:
        model = model.to(device)
    return share(CausalLM(model), text, spec)


def share(lm: CausalLM, text: TextTokens, spec: ModelSpec) -> tuple[CausalLM, TextTokens]:
    """Read ``spec`` with weights that are loaded already; they are those that it names.

    Raises:
        ConfigError: The package peft is missing, or the adapter is for another model.
        ModelNotFoundError: There is no such adapter.
        UnsupportedModelError: The adapter cannot be on in some rows of a batch and off in others.
    """
    view = lm.view(spec.token_budget)
    if spec.adapter is not None:
        with clear_errors_of(spec.adapter):
            view.adapter = lm.adapters.load(spec.adapter, locate_adapter(spec.adapter))
    return view, tokens(lm.model, text.tokenizer, spec.prompt_template())


def preview(spec: ModelSpec) -> tuple[PreTrainedConfig, TextTokens]:
    """All of ``load`` but the weights: refuses in seconds what ``load`` would refuse.

    Weights that are broken, or missing on the hub, are not found. Raises like ``load``.
    """
    options_of(spec, device_of(spec))
    source, files = locate(spec.model, spec.revision)
    with clear_errors_of(spec.model):
        config = AutoConfig.from_pretrained(source, **files, trust_remote_code=False)
        _override(config, spec)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ConfigError(
                f"model {spec.model!r} is no causal language model: transformers has no "
                f"AutoModelForCausalLM for {type(config).__name__}"
            )
        check_branchable(config)
        check_safe(spec.model, source, files)
        if spec.adapter is not None:
            check_adapter(spec.adapter, locate_adapter(spec.adapter))
        tokenizer = AutoTokenizer.from_pretrained(source, **files, trust_remote_code=False)
        try:
            generation = GenerationConfig.from_pretrained(source, revision=spec.revision or "main")
        except OSError:  # it has no such file
            generation = GenerationConfig.from_model_config(config)
    return config, TextTokens(tokenizer, spec.prompt_template(), _end_ids(generation))


def load_tokens(name: str, template: PromptTemplate) -> TextTokens:
    """The tokenizer of a model that runs elsewhere, and no weights; raises like ``load``."""
    source, files = locate(name)
    with clear_errors_of(name):
        tokenizer = AutoTokenizer.from_pretrained(source, **files, trust_remote_code=False)
        try:
            generation = GenerationConfig.from_pretrained(source)
        except OSError:  # it has no such file
            generation = None
    return TextTokens(tokenizer, template, _end_ids(generation))


def tokens(model: Any, tokenizer: Any, template: PromptTemplate) -> TextTokens:
    """The tokenizer and template of a loaded model, with all end tokens that the model knows."""
    return TextTokens(tokenizer, template, _end_ids(getattr(model, "generation_config", None)))


def _end_ids(generation: Any) -> list[int]:
    ends = getattr(generation, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _override(config: PreTrainedConfig, spec: ModelSpec) -> None:
    known = config.to_dict()
    for name, value in spec.config.items():
        if name not in known:
            raise ConfigError(
                f"the config of model {spec.model!r} has no field {name!r} to override"
                f"{did_you_mean(name, known)}"
            )
        setattr(config, name, value)


@contextmanager
def clear_errors_of(name: str) -> Generator[None]:
    """Turn whatever transformers raises while it loads ``name`` into errors of ours."""
    try:
        yield
    except W2SError:
        raise
    except OSError as error:
        raise ModelNotFoundError(
            f"model {name!r} cannot be loaded: {brief(error)}; give a hub id that you "
            "can reach, a local folder with config.json, *.safetensors and a tokenizer, a .gguf "
            "file, or 'embedded:NAME'"
        ) from error
    except Exception as error:  # whatever a broken file or a missing package makes transformers do
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(
                f"model {name!r} needs code from its own repository, which w2s_chains never "
                "runs; use a model that transformers itself supports"
            ) from error
        raise ConfigError(f"model {name!r} cannot be loaded: {brief(error)}") from error


def check_complete(name: str, found: dict[str, Any], kind: str) -> None:
    """Raise ConfigError if a checkpoint lacks weights, which transformers would make up."""
    if missing := sorted(found["missing_keys"]):
        raise ConfigError(
            f"model {name!r} is no {kind}: its files have no weights for "
            f"{brief(', '.join(missing))}, which would be random; give a complete checkpoint"
        )


def check_safe(name: str, source: str, files: dict[str, Any]) -> None:
    """Raise ModelNotFoundError if a local folder has no weights that may be opened.

    What the hub has is known only when it is asked for weights.
    """
    folder = Path(source)
    if "gguf_file" in files or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    why = "no *.safetensors"
    if any(folder.glob("*.bin")):
        why = (
            "only pickled weights (*.bin), which w2s_chains never opens; convert it once to "
            "safetensors, see cookbook/paper/README.md"
        )
    raise ModelNotFoundError(f"the folder of model {name!r} has {why}")


def locate(
    name: str, revision: str | None = None, file: str = "config.json"
) -> tuple[str, dict[str, Any]]:
    """What to give to ``from_pretrained``: a folder or hub id, and which file or revision.

    Args:
        name: Hub id, local folder, GGUF file, or ``embedded:NAME``. One that the YAML file named by
            ``W2S_MODEL_PATHS`` lists is what that file says instead.
        revision: Branch, tag or commit on the hub.
        file: What a model on the hub has.

    Raises:
        ModelNotFoundError: The reference leads nowhere.
        ConfigError: A revision of something that is not on the hub.
    """
    path = Path(local_path(name)).expanduser()
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
        _reach_hub(name, revision, file)
        return name, {} if revision is None else {"revision": revision}
    if revision is not None:
        raise ConfigError(
            f"revision {revision!r} is for a model on the hub, but {name!r} is not one; "
            "leave it out"
        )
    return found


def locate_adapter(name: str) -> Path:
    """The folder of an adapter, which is fetched from the hub if it is not here.

    Raises:
        ModelNotFoundError: The reference leads nowhere, or to no safetensors.
    """
    source, _ = locate(name, file=CONFIG)
    if (folder := Path(source)).is_dir():
        for file in (CONFIG, WEIGHTS):
            if not (folder / file).is_file():
                raise ModelNotFoundError(
                    f"the folder of adapter {name!r} has no {file}; an adapter is what peft saves "
                    "(pickled weights, *.bin, are never opened)"
                )
        return folder
    with clear_errors_of(name):
        files = [hf_hub_download(source, file) for file in (CONFIG, WEIGHTS)]
    return Path(files[-1]).parent


def _reach_hub(name: str, revision: str | None, file: str) -> None:
    """Raise ModelNotFoundError if the model is not cached and no hub can be reached.

    Without this, huggingface_hub tries again and again, which takes half a minute.
    """
    if isinstance(try_to_load_from_cache(name, file, revision=revision), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=_HUB_TIMEOUT)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ModelNotFoundError(
            f"model {name!r} is no file or folder here, not in the hub's cache, and the hub cannot "
            f"be reached: {brief(error)}; check the name and the network, or use 'embedded:NAME' "
            "for a model that comes with w2s_chains"
        ) from error
    except Exception:  # from_pretrained tells, in its own words, what is wrong with the model
        return


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


def brief(error: BaseException | str) -> str:
    """A message of somebody else on one line of ours."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".")
