"""The section ``proposer`` of a config: its base class, its built-in types, how it is built."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from w2s_chains.backend.loading.config import Model
from w2s_chains.core.configs import Plugin, built
from w2s_chains.core.parts import Proposer
from w2s_chains.core.slots import LazyClasses, Slot
from w2s_chains.errors import ConfigError


class ProposerConfig(Plugin):
    """The section ``proposer`` of a config, for anything but a Hugging Face model in this process.

    Other packages subclass it and register the class under the entry point group
    ``w2s_chains.proposers``. A class with a method ``propose`` is the proposer itself. One that
    loads a model or opens a connection overrides ``build``; what it builds keeps this object as
    ``spec``, so that it can be written to YAML again:

        class ServedConfig(ProposerConfig):
            type: Literal["served"] = "served"
            url: str

            def build(self) -> Proposer:
                return ServedProposer(spec=self)

    What a proposer may have besides ``propose`` is declared on ``Proposer``.
    """

    def build(self) -> Proposer:
        """The proposer.

        Raises:
            ConfigError: The class has neither this method nor ``propose``.
        """
        if isinstance(self, Proposer):
            return self
        raise ConfigError(f"proposer {self.type!r} has neither a method propose nor a method build")


class ProposerSlot(Slot[Any]):
    """Holds a ``Model``, which is the default, or a ``ProposerConfig``; a string is a model."""

    def holds(self, value: object) -> bool:
        return isinstance(value, Model | ProposerConfig)


PROPOSERS = LazyClasses(
    huggingface="w2s_chains.backend.loading.config:Model",
    langchain="w2s_chains.proposers.langchain:LangChainConfig",
    openai="w2s_chains.proposers.openai:OpenAIConfig",
)
"""The built-in types; a new one is one line here."""

PROPOSER = ProposerSlot(
    kind="proposer",
    base=ProposerConfig,
    builtins=PROPOSERS,
    group="w2s_chains.proposers",
    default="huggingface",
    shorthand="model",
)

AnyProposer = Annotated[Model | ProposerConfig, PROPOSER]
"""A config slot for a proposer."""


build_proposer = partial(built, PROPOSER)


def load_proposer(config: Model | ProposerConfig, load: Any) -> Proposer:
    """The proposer that a config describes.

    Args:
        config: The section ``proposer``.
        load: A ``Loader``: models with equal weights are loaded once.

    Raises:
        W2SError: Whatever is wrong with the model or its server.
    """
    if isinstance(config, ProposerConfig):
        return config.build()
    from w2s_chains.proposers.huggingface import HuggingFaceProposer  # brings torch

    return load(HuggingFaceProposer, config)
