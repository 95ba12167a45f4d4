"""The large frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, SerializeAsAny

from w2s_chains.backend.spec import ModelSpec
from w2s_chains.plugins import build_plugin
from w2s_chains.proposers.base import ProposerConfig
from w2s_chains.proposers.huggingface import HuggingFaceProposer
from w2s_chains.proposers.named import LangChainSpec
from w2s_chains.proposers.openai import OpenAIProposer, OpenAISpec

PROPOSERS: Mapping[str, type[BaseModel]] = {
    "huggingface": ModelSpec,
    "langchain": LangChainSpec,
    "openai": OpenAISpec,
}


def build_proposer(value: Any) -> Any:
    """The config of a proposer from a mapping, which is of type ``huggingface`` if it has none."""
    if isinstance(value, Mapping) and value.get("type") == "huggingface":
        value = {name: given for name, given in value.items() if name != "type"}
    return build_plugin("proposers", value, PROPOSERS, default="huggingface")


AnyProposer = Annotated[SerializeAsAny[ModelSpec | ProposerConfig], BeforeValidator(build_proposer)]
"""A config slot for a proposer."""

if TYPE_CHECKING:
    from w2s_chains.proposers.langchain import LangChainProposer


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
    "LangChainSpec",
    "OpenAIProposer",
    "OpenAISpec",
    "ProposerConfig",
    "build_proposer",
]
