"""Check a study before anything is loaded, and load the models that its configs share."""

from __future__ import annotations

import importlib.util
from contextlib import suppress

from w2s_chains.backend.loading.config import Model
from w2s_chains.backend.loading.load import preview
from w2s_chains.backend.loading.local_model import Loader
from w2s_chains.comparison.study import Entry, Study
from w2s_chains.errors import ConfigError, PromptError, W2SError
from w2s_chains.langchain.llms import W2SLLM


class Models:
    """Loads the models of one config after another, and equal weights only once."""

    def __init__(self) -> None:
        self._load = Loader()

    def llm(self, config: Entry | W2SLLM) -> W2SLLM:
        """Load a config's models; first drop those that only earlier configs needed."""
        if isinstance(config, W2SLLM):
            return config
        self._load.keep(config.models())
        return W2SLLM(**config.build(load=self._load))

    def clear(self) -> None:
        """Drop all models, to make room for the rewards."""
        self._load.keep(())


def check_plots(plots: bool) -> None:
    """Raise ConfigError if plots are wanted, but cannot be drawn."""
    if plots and importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            "plots need matplotlib, which is not installed; run `pip install "
            "'w2s_chains[compare]'`, or switch plots off (plots=False, --no-plots)"
        )


def check_study(study: Study, prompt: str) -> None:
    """Check that a study can work, before anything is loaded or written.

    Args:
        study: The study.
        prompt: One of its prompts.

    Raises:
        W2SError: A model is missing or cannot branch, a strategy has no scorer, token-level
            steering has guides with another vocabulary, or a reward cannot work. The message names
            the config or the reward.
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
                    "scorer; add a section guides"
                )
            for spec in config.models():
                if (key := repr(spec)) not in vocabularies:
                    vocabularies[key] = preview(spec)[1].vocabulary
            if config.strategy.token_steering:
                _check_steering(config, vocabularies)
            if "by_guide" in config.strategy.needs:
                _check_writer(config)
        except W2SError as error:
            raise type(error)(f"config {name!r}: {error}") from error
    for reward in study.rewards:
        reward.check()


def _check_loaded(llm: W2SLLM, prompt: str) -> None:
    with suppress(PromptError):  # the prompt's row will hold the error
        llm.jobs([prompt])


def _check_writer(config: Entry) -> None:
    specs = () if config.guides is None else config.guides.specs()
    if not specs or not all(isinstance(guide, Model) for guide in specs):
        raise ConfigError(
            f"strategy {config.strategy.type!r} lets the tuned guide write words, which needs "
            "local guides; add a section guides, or use another strategy"
        )


def _check_steering(config: Entry, vocabularies: dict[str, str]) -> None:
    if config.guides is None:
        raise ConfigError(
            f"strategy {config.strategy.type!r} steers every token; add a section guides"
        )
    if not isinstance(config.proposer, Model):
        return  # a third-party proposer checks this itself when it samples
    for guide in config.guides.specs():
        if not isinstance(guide, Model):
            raise ConfigError(
                f"strategy {config.strategy.type!r} steers every token, which a guide on a server "
                f"({guide.model!r}) cannot do; use local guides, or a strategy without steering"
            )
        if vocabularies[repr(guide)] != vocabularies[repr(config.proposer)]:
            raise ConfigError(
                f"strategy {config.strategy.type!r} steers every token, so guide {guide.model!r} "
                f"must have the vocabulary of the proposer {config.proposer.model!r}; use guides "
                "of its model family, or a strategy without steering"
            )
