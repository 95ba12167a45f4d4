"""``Model`` and its options: which model, where its weights go, and how it reads a prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypedDict, Unpack, cast

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from w2s_chains.backend.chat.prompt_template import PromptTemplate
from w2s_chains.backend.lm import DEFAULT_TOKEN_BUDGET
from w2s_chains.core.configs import Config
from w2s_chains.errors import ConfigError


def _as_text(value: object) -> object:
    return os.fspath(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else value


ModelName = Annotated[str, Field(min_length=1), BeforeValidator(_as_text)]
"""Hub id, local folder, GGUF file, or ``embedded:NAME``."""


class PromptFields(TypedDict, total=False):
    """Keyword arguments that are fields of ``PromptTemplate``."""

    template: str
    chat: bool | Literal["auto"]
    system: str | None
    chat_template_kwargs: Mapping[str, bool | int | float | str | None]


class ModelFields(PromptFields, total=False):
    """Keyword arguments that are fields of ``ModelOptions``."""

    revision: str | None
    device: str | None
    device_map: str | dict[str, Any] | None
    dtype: str | None
    quantization_config: Any
    attn_implementation: str | None
    config: dict[str, Any]
    token_budget: int
    cuda_graphs: bool


class Placement(Config):
    """Which version of a model to load, and on which device.

    Attributes:
        revision: Branch, tag or commit on the hub.
        device: "cpu", "cuda", "cuda:1", ...; by default the GPU if there is one.
        device_map: How to spread one model over several devices; replaces ``device``.
        dtype: "float32", "bfloat16", "float16" or "auto"; by default float32 on a CPU and the
            checkpoint's own on a GPU. "auto" is the checkpoint's own on a GPU, and on a CPU
            bfloat16 where the CPU has units for it (AMX, AVX-512 BF16), else float32.
        quantization_config: Passed to transformers.
        attn_implementation: "sdpa", "eager", "flash_attention_2", ...
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    revision: str | None = None
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    dtype: str | None = None
    quantization_config: Any = None
    attn_implementation: str | None = None


class ModelOptions(PromptTemplate, Placement):
    """How to load a causal language model, and how it reads a prompt.

    Attributes:
        config: Overrides of the model's own config, such as ``{sliding_window: null}``.
        token_budget: The most tokens in one batch, cached ones included.
        cuda_graphs: Record decode steps as CUDA graphs, which spares a GPU the launches of single
            operations. Needs a GPU, and a model without adapters. Never run on a GPU yet.
    """

    config: dict[str, Any] = Field(default_factory=dict[str, Any])
    token_budget: int = Field(default=DEFAULT_TOKEN_BUDGET, ge=1)
    cuda_graphs: bool = False


class Model(ModelOptions):
    """A Hugging Face model in this process: which one, on which device, and how it reads a prompt.

    Attributes:
        model: Hub id, local folder, GGUF file, or ``embedded:NAME``.
        adapter: A LoRA adapter for the model: hub id or local folder. Needs the package peft.
    """

    type: Literal["huggingface"] = Field(default="huggingface", repr=False)
    model: ModelName
    adapter: ModelName | None = None

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        adapter: str | os.PathLike[str] | None = None,
        type: Literal["huggingface"] = "huggingface",
        **options: Unpack[ModelFields],
    ) -> None:
        """Describe a model without loading it. See the attributes of this class.

        Raises:
            ConfigError: An option is misspelt or out of range.
        """
        given: dict[str, Any] = {"model": model, **options}
        Config.__init__(self, **(given if adapter is None else {**given, "adapter": adapter}))

    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    @model_validator(mode="after")
    def _recordable(self) -> Self:
        if self.cuda_graphs and self.adapter is not None:
            raise no_graphs_of_adapters(self.adapter)
        return self

    @model_serializer(mode="wrap")
    def _chat_said(self, others: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
        """Always write ``chat`` in a chat model's config, where false is not the default."""
        context: dict[str, Any] = info.context or {}
        always = {"chat": self.chat} if context.get("chat") else {}
        return {**others(self), **always}

    @property
    def weights(self) -> str:
        """A key, equal for models that can share weights; adapters and prompts may differ."""
        names = ("model", "config", "cuda_graphs", *Placement.model_fields)
        return repr([getattr(self, name) for name in names])

    def prompt_template(self) -> PromptTemplate:
        return PromptTemplate.of(self)


def no_graphs_of_adapters(adapter: str) -> ConfigError:
    """Return the error about an adapter on a model whose decode steps are recorded."""
    return ConfigError(
        f"cuda_graphs cannot record adapters, which are switched on and off, but {adapter!r} is "
        "one; merge it into its base, or leave cuda_graphs out"
    )
