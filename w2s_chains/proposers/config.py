"""The section ``proposer`` of a config: its base class, its built-in types and its slot."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from w2s_chains.backend.loading.config import Model
from w2s_chains.core.configs import Plugin, built
from w2s_chains.core.parts import Proposer
from w2s_chains.core.slots import LazyClasses, Slot
from w2s_chains.errors import ConfigError


class ProposerConfig(Plugin):
    """The section ``proposer`` of a config, except for a Hugging Face model in this process.

    Other packages subclass this class and register the class under the entry point group
    ``w2s_chains.proposers``. A subclass with a method ``propose`` is the proposer itself. A
    subclass that loads a model or opens a connection overrides ``build``; the proposer it builds
    keeps this config as ``spec``, so that it can be written to YAML again:

        class ServedConfig(ProposerConfig):
            type: Literal["served"] = "served"
            url: str

            def build(self) -> Proposer:
                return ServedProposer(spec=self)

    ``Proposer`` declares what a proposer may have besides ``propose``.
    """

    def build(self) -> Proposer:
        """Build the proposer.

        Raises:
            ConfigError: The class has neither this method nor ``propose``.
        """
        if isinstance(self, Proposer):
            return self
        raise ConfigError(f"proposer {self.type!r} has neither a method propose nor a method build")


class ProposerSlot(Slot[Any]):
    """Hold a ``Model`` (the default) or a ``ProposerConfig``; a string is the name of a model."""

    def holds(self, value: object) -> bool:
        return isinstance(value, Model | ProposerConfig)


PROPOSERS = LazyClasses(
    huggingface="w2s_chains.backend.loading.config:Model",
    langchain="w2s_chains.proposers.langchain:LangChainConfig",
    openai="w2s_chains.proposers.openai:OpenAIConfig",
)
"""The built-in types; add a new one here."""

PROPOSER = ProposerSlot(
    kind="proposer",
    base=ProposerConfig,
    builtins=PROPOSERS,
    group="w2s_chains.proposers",
    default="huggingface",
    shorthand="model",
)

AnyProposer = Annotated[Model | ProposerConfig, PROPOSER]
"""The type of a config field that holds a proposer."""


build_proposer = partial(built, PROPOSER)


def load_proposer(config: Model | ProposerConfig, load: Any) -> Proposer:
    """Load the proposer that a config describes.

    Args:
        config: The section ``proposer``.
        load: A ``Loader``, which loads models with equal weights once.

    Raises:
        W2SError: The model or its server does not work.
    """
    if isinstance(config, ProposerConfig):
        return config.build()
    from w2s_chains.proposers.huggingface import HuggingFaceProposer  # imports torch

    return load(HuggingFaceProposer, config)
