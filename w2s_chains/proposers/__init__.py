"""The large frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, SerializeAsAny

from w2s_chains.backend.loading.spec import Model
from w2s_chains.core.plugins import build_plugin
from w2s_chains.proposers.config import LangChainConfig, ProposerConfig
from w2s_chains.proposers.huggingface import HuggingFaceProposer
from w2s_chains.proposers.openai import OpenAIConfig, OpenAIProposer

if TYPE_CHECKING:
    from w2s_chains.proposers.langchain import LangChainProposer


PROPOSERS: Mapping[str, type[BaseModel]] = {
    "huggingface": Model,
    "langchain": LangChainConfig,
    "openai": OpenAIConfig,
}


def build_proposer(value: Any) -> Any:
    """The config of a proposer from a mapping, which is of type ``huggingface`` if it has none."""
    if isinstance(value, Mapping) and value.get("type") == "huggingface":
        value = {name: given for name, given in value.items() if name != "type"}
    return build_plugin("proposers", value, PROPOSERS, default="huggingface")


AnyProposer = Annotated[SerializeAsAny[Model | ProposerConfig], BeforeValidator(build_proposer)]
"""A config slot for a proposer."""


def __getattr__(name: str) -> Any:
    if name == "LangChainProposer":  # the core imports without langchain
        from w2s_chains.proposers.langchain import LangChainProposer

        return LangChainProposer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "PROPOSERS",
    "AnyProposer",
    "HuggingFaceProposer",
    "LangChainProposer",
    "LangChainConfig",
    "OpenAIProposer",
    "OpenAIConfig",
    "ProposerConfig",
    "build_proposer",
]
