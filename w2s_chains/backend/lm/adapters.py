"""LoRA adapters on one base model, switched on and off row by row within a batch."""

from __future__ import annotations

import functools
import itertools
import json
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from w2s_chains.errors import ConfigError, UnsupportedModelError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_BASE = "__base__"
"""PEFT's name for a row without an adapter."""
_FAST = "_mixed_batch_forward"
"""PEFT's method that runs a batch of several adapters. We replace it, because it gathers and
scatters the rows of each adapter, which takes longer than the adapter itself. If a PEFT version
lacks the method, the layer is only slower."""
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "bias": (None, "none"),
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "use_dora": (None, False),
}
"""Values that a LoRA config may have in these fields. Others change the base weights themselves,
or make PEFT import modules that they name."""


def require_peft() -> Any:
    """Import the package peft.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ConfigError(
            "adapters need the package peft; run: pip install 'w2s_chains[lora]'"
        ) from error
    return peft


def check_adapter(name: str, folder: Path) -> None:
    """Check that an adapter can be used, before any weights are loaded.

    Args:
        name: The user's name for the adapter, for messages.
        folder: The folder with its files.

    Raises:
        ConfigError: peft is not installed, or the adapter's config cannot be read.
        UnsupportedModelError: The adapter is not a LoRA that can be switched off per row.
    """
    require_peft()
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"the {CONFIG} of adapter {name!r} cannot be read: {error}") from error
    if kind != "LORA":
        raise _must_be_merged(name, f"has type {kind!r}, and only LORA is supported")
    for field, harmless in _HARMLESS.items():
        if (value := config.get(field)) not in harmless:
            raise _must_be_merged(name, f"has {field} {value!r}")


def _must_be_merged(name: str, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"adapter {name!r} cannot be on in some rows of a batch and off in others: it {why}; merge "
        "it into its base and use the merged model instead"
    )


class Adapters:
    """The adapters that are loaded into one model; without any, the model is unchanged.

    Outside ``rows`` the model runs as the base alone. Not thread-safe, like the model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._peft: Any = None
        self._names: dict[Path, str] = {}
        self._watched: WeakSet[Any] = WeakSet()
        self._rows: Sequence[str] | None = ()  # None: PEFT uses the adapter that was set last

    @contextmanager
    def rows(self, adapters: Sequence[str | None] | None) -> Generator[None]:
        """Run the model with the given adapter in each row of the batch; None is the base."""
        before, self._rows = self._rows, [name or _BASE for name in adapters or ()]
        try:
            yield
        finally:
            self._rows = before

    def load(self, name: str, folder: Path) -> str:
        """Load an adapter into the model unless it is there already.

        Args:
            name: The user's name for the adapter, for messages.
            folder: The folder with its files.

        Returns:
            The name to give to ``rows``.

        Raises:
            UnsupportedModelError: The adapter changes its base, or cannot be off in some rows.
            ConfigError: The adapter belongs to another base model.
        """
        folder = folder.resolve()
        if folder not in self._names:
            check_adapter(name, folder)
            key = f"adapter{len(self._names)}"
            self._load(name, folder, key)
            self._names[folder] = key
        return self._names[folder]

    @torch.inference_mode()  # PEFT switches gradients of weights that are made in this mode
    def _load(self, name: str, folder: Path, key: str) -> None:
        try:
            with warnings.catch_warnings():  # PEFT reads what transformers is about to rename
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                self._add(name, folder, key)
        except BaseException:
            self._rows = ()
            if self._peft is not None and self._names:
                self._peft.delete_adapter(key)
            elif self._peft is not None:
                self._peft = self._peft.unload() and None
            raise

    def _add(self, name: str, folder: Path, key: str) -> None:
        peft = require_peft()
        config = peft.LoraConfig.from_pretrained(folder)
        config.inference_mode = config.init_lora_weights = True
        plain = self._logits()
        options = {"autocast_adapter_dtype": False, "low_cpu_mem_usage": True}
        device = str(input_device(self._model))
        own = [
            (module, of, weight)
            for module in self._model.modules()
            for of, weight in module.named_parameters(recurse=False)
        ]
        if self._peft is None:
            self._peft = peft.PeftModel(self._model, config, key, **options)
        else:
            self._peft.add_adapter(key, config, **options)
        with _unchanged(name, own):
            found = self._peft.load_adapter(folder, key, torch_device=device, **options)
        if wrong := sorted([*found.missing_keys, *found.unexpected_keys]):
            raise ConfigError(
                f"adapter {name!r} does not fit its base: {len(wrong)} weights such as "
                f"{wrong[0]!r} are missing or have no place; use the base that it was trained on"
            )
        self._peft.set_adapter(key)
        self._peft.eval()
        self._watch(name, key)
        self._rows = None
        alone = self._logits()
        try:
            with self.rows([key, None]):
                adapted, base = self._logits(2)
        except (ValueError, TypeError) as error:
            raise _must_be_merged(name, f"is refused by PEFT ({error})") from error
        self._rows = ()
        self._compare(name, base, plain[0], "changes its base where it is off")
        self._compare(name, adapted, alone[0], "gives other logits beside rows of the base")

    def _watch(self, name: str, key: str) -> None:
        """Make every adapted layer ask which adapter each row has."""
        from peft.tuners.lora import LoraLayer
        from peft.tuners.lora.layer import Linear
        from peft.utils.other import AuxiliaryTrainingWrapper

        layers: list[Any] = [
            module
            for module in self._model.modules()
            if isinstance(module, LoraLayer | AuxiliaryTrainingWrapper)
        ]
        for module in layers:
            if isinstance(module, AuxiliaryTrainingWrapper) and self._names:
                raise _must_be_merged(
                    name, "or another adapter of this base replaces modules (modules_to_save)"
                )
            if module not in self._watched:
                module.register_forward_pre_hook(self._choose, with_kwargs=True)
                self._watched.add(module)
            if type(module) is Linear and not module.lora_variant and key in module.lora_A:
                setattr(module, _FAST, functools.partial(_add_to_rows, module))

    def _choose(self, module: Any, args: Any, kwargs: Any) -> Any:
        if self._rows is None:
            return None
        return args, {**kwargs, "adapter_names": self._rows or [_BASE] * len(args[0])}

    def _logits(self, rows: int = 1) -> Tensor:
        """Return the logits after a short text, for comparisons: [rows, V]."""
        ids = torch.arange(1, 5, device=input_device(self._model)).expand(rows, -1)
        ids = ids % self._model.config.get_text_config(decoder=True).vocab_size
        return self._model(input_ids=ids, use_cache=False).logits[:, -1].float()

    def _compare(self, name: str, found: Tensor, wanted: Tensor, fault: str) -> None:
        full = self._model.dtype in (torch.float32, torch.float64)
        tolerance = (1e-4 if full else 0.05) * wanted.abs().max()
        if not bool((found - wanted).abs().max() <= tolerance):
            raise _must_be_merged(name, fault)


@contextmanager
def _unchanged(name: str, weights: Sequence[tuple[Any, str, Tensor]]) -> Generator[None]:
    """Put back what an adapter's file replaces: with an adapted embedding PEFT saves its base, too.

    Args:
        name: The user's name for the adapter, for messages.
        weights: Module, name and value of each weight.

    Raises:
        UnsupportedModelError: A weight in the file is not the base's.
    """
    try:
        yield
        for module, of, weight in weights:
            now = getattr(module, of)
            if now is not weight and not torch.equal(now.to(weight.dtype), weight):
                raise _must_be_merged(name, "changes its base where it is off")
    finally:
        for module, of, weight in weights:
            setattr(module, of, weight)


def input_device(model: Any) -> torch.device:
    """Return the device on which a transformers model expects its token ids."""
    return model.get_input_embeddings().weight.device


def _add_to_rows(
    layer: Any, x: Tensor, *args: Any, adapter_names: Sequence[str], **options: Any
) -> Tensor:
    """Run the base layer on all rows, then add each adapter's output to its own rows.

    Args:
        layer: A linear layer of PEFT.
        x: [B, n, D]
        *args: Passed on to the base layer.
        adapter_names: One per row; fastest if rows with the same adapter are neighbours.
        **options: Ignored: a plain LoRA has none.

    Returns:
        [B, n, out]
    """
    result = layer.base_layer(x, *args)
    at = 0
    for name, run in itertools.groupby(adapter_names):
        begin, at = at, at + len(list(run))
        if name in layer.lora_A:
            down, up = layer.lora_A[name], layer.lora_B[name]
            inner = down(x[begin:at].flatten(0, -2))  # [rows * n, r]
            own = result[begin:at].view(-1, result.shape[-1])
            own.addmm_(inner, up.weight.T, alpha=layer.scaling[name])
            if up.bias is not None:
                own.add_(up.bias, alpha=layer.scaling[name])
    return result
