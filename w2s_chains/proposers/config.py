"""What a config says about a proposer that is no Hugging Face model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from w2s_chains.backend.text.template import Template
from w2s_chains.core.plugins import Plugin
from w2s_chains.core.proposing import Proposer
from w2s_chains.errors import ConfigError

if TYPE_CHECKING:
    from w2s_chains.proposers.langchain import LangChainProposer


class ProposerConfig(Plugin):
    """The section ``proposer`` of a config.

    Third parties subclass it and register the class under the entry point group
    ``w2s_chains.proposers``. A class with a method ``propose`` is the proposer itself; one that
    loads a model or opens a connection overrides ``build``, and what it builds keeps this object as
    ``spec``, so that it can be written to YAML again:

        class Served(ProposerConfig):
            type: Literal["served"] = "served"
            url: str

            def build(self) -> Proposer:
                return ServedProposer(spec=self)

    For what a proposer may have besides ``propose`` see ``Checks``, ``Steerable`` and
    ``Constrainable`` in ``w2s_chains.contracts``.
    """

    def build(self) -> Proposer:
        """The proposer.

        Raises:
            ConfigError: The class has neither this method nor ``propose``.
        """
        if isinstance(self, Proposer):
            return self
        raise ConfigError(f"proposer {self.type!r} has neither a method propose nor a method build")


class LangChainConfig(ProposerConfig):
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
        from w2s_chains.proposers.langchain import LangChainProposer

        return LangChainProposer.from_spec(self)
