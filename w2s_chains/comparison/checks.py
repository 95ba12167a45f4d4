"""Models that the configs of a comparison share, and what can be refused before any is loaded."""

from __future__ import annotations

from contextlib import suppress

from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import preview
from w2s_chains.backend.loading.local_model import Loader
from w2s_chains.comparison.study import Entry, Study
from w2s_chains.errors import ConfigError, PromptError, W2SError
from w2s_chains.langchain.llms import W2SLLM


class Models:
    """Loads equal weights once; those of the current config stay, others go."""

    def __init__(self) -> None:
        self._load = Loader()

    def llm(self, config: Entry | W2SLLM) -> W2SLLM:
        """The config with its models; what only earlier configs needed is dropped first."""
        if isinstance(config, W2SLLM):
            return config
        self._load.keep(config.models())
        return W2SLLM(**config.build(load=self._load))

    def clear(self) -> None:
        """Make room for the rewards."""
        self._load.keep(())


def check_study(study: Study, prompt: str) -> None:
    """Refuse what cannot work, before anything is loaded or written.

    Args:
        study: The study.
        prompt: One of its prompts.

    Raises:
        W2SError: A model is missing or cannot branch, a strategy has no scorer, token-level
            steering has guides with another vocabulary, a reward cannot be built; the message
            names the config or reward.
    """
    vocabularies: dict[str, str] = {}
    for name, config in study.configs.items():
        try:
            if isinstance(config, W2SLLM):
                _check_loaded(config, prompt)
                continue
            config.check()
            if config.scoring is not None:
                config.scoring.preview()
            if config.strategy.needs_scorer and config.scoring is None:
                raise ConfigError(
                    f"strategy {config.strategy.type!r} chooses by a score, but there is no "
                    "scorer; give a section guides"
                )
            for spec in config.models():
                if (key := repr(spec)) not in vocabularies:
                    vocabularies[key] = preview(spec)[1].vocabulary
            if config.strategy.token_steering:
                _check_steering(config, vocabularies)
        except W2SError as error:
            raise type(error)(f"config {name!r}: {error}") from error
    for reward in study.rewards:
        reward.check()


def _check_loaded(llm: W2SLLM, prompt: str) -> None:
    with suppress(PromptError):  # its row will say so
        llm.jobs([prompt])


def _check_steering(config: Entry, vocabularies: dict[str, str]) -> None:
    if config.guides is None:
        raise ConfigError(
            f"strategy {config.strategy.type!r} steers every token; give a section guides"
        )
    if not isinstance(config.proposer, Model):
        return  # one of another package says so itself when it is asked to
    for guide in config.guides.specs():
        if not isinstance(guide, Model):
            raise ConfigError(
                f"strategy {config.strategy.type!r} steers every token, which a guide behind a "
                f"server ({guide.model!r}) cannot; use local guides, or a strategy without steering"
            )
        if vocabularies[repr(guide)] != vocabularies[repr(config.proposer)]:
            raise ConfigError(
                f"strategy {config.strategy.type!r} steers every token, for which guide "
                f"{guide.model!r} needs the vocabulary of the proposer {config.proposer.model!r}; "
                "use such guides, or a strategy without steering"
            )
