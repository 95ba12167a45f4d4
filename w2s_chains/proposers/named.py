"""The section ``proposer`` for a chat model of any provider that LangChain knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from w2s_chains.backend.text import Template
from w2s_chains.proposers.base import ProposerConfig

if TYPE_CHECKING:
    from w2s_chains.proposers.langchain import LangChainProposer


class LangChainSpec(ProposerConfig):
    """A chat model of any provider that LangChain knows; for whole answers, as best_of_n.

    Attributes:
        model: Provider and name, such as "ollama:llama3.2" or "anthropic:claude-sonnet-4-5"; keys
            are where the provider's package looks for them.
        template: Text in which ``{prompt}`` is replaced literally.
        timeout: Seconds that one call may take.
        max_concurrency: Calls under way at once.
    """

    type: Literal["langchain"] = "langchain"
    model: str = Field(min_length=1)
    template: Template = "{prompt}"
    timeout: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    max_concurrency: int = Field(default=16, ge=1)

    def build(self) -> LangChainProposer:
        from w2s_chains.proposers.langchain import LangChainProposer  # the core has no langchain

        return LangChainProposer.from_spec(self)
