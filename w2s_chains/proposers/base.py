"""What a config says about a proposer that is no Hugging Face model."""

from __future__ import annotations

from w2s_chains.contracts import Proposer
from w2s_chains.errors import ConfigError
from w2s_chains.plugins import Plugin


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
