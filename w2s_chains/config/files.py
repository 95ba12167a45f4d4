"""Configs as files and mappings: reading and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from w2s_chains.config.changes import Changes
from w2s_chains.config.sections import GenerationConfig, ModelType, W2SConfig
from w2s_chains.core.configs import FindLine, config_errors
from w2s_chains.core.contracts import BaseGuidePair, config_of
from w2s_chains.core.parts import Parts, Proposer, Scorer
from w2s_chains.errors import ConfigError
from w2s_chains.search import SearchStrategy
from w2s_chains.user_files import line_of, read_yaml


def load_config(
    config: str | Path | Mapping[str, Any],
    kind: ModelType | None = None,
    changes: Sequence[str] = (),
) -> W2SConfig:
    """Read a config.

    Args:
        config: A YAML file, or a mapping of the same form.
        kind: The type of a config that says none.
        changes: What a file should say instead: "strategy.width=2"; see ``Changes``.

    Raises:
        ConfigError: It is not valid; the message has every fault with file, line and choices.
    """
    if isinstance(config, Mapping):
        assert not changes  # a mapping is changed more simply
        with config_errors(W2SConfig, config, "config"):
            return W2SConfig.model_validate({"type": kind, **config})
    tree, values = read_yaml(config, "config", W2SConfig.model_fields)
    place: FindLine = partial(line_of, tree)
    if changes:
        told = Changes(values, changes, W2SConfig)
        values, place = told.values, partial(told.place, tree, str(config))
    with config_errors(W2SConfig, values, str(config), place):
        return W2SConfig.model_validate({"type": kind, **values})


def describe(
    proposer: Proposer,
    guides: BaseGuidePair | None,
    scorer: Scorer | None,
    strategy: SearchStrategy,
    generation: GenerationConfig,
    kind: ModelType,
) -> W2SConfig:
    """The config of parts that are ready: each of them writes its own section.

    Raises:
        ConfigError: A part was built by hand, or the scorer reads other guides than ``guides``.
    """
    pair = None if scorer is None else Scorer.of(scorer).pair
    if pair is not None and guides is not None and pair is not guides:
        raise ConfigError(
            "guides and scorer.pair are different pairs, and a config names one; write it with "
            "guides=None or with scorer=None"
        )
    guides = pair if guides is None else guides
    beside = Parts(proposer=proposer, guides=guides)
    return W2SConfig(
        type=kind,
        proposer=config_of(proposer, Proposer),
        guides=None if guides is None else config_of(guides, BaseGuidePair),
        scorer=None if scorer is None else config_of(scorer, Scorer, beside=beside),
        strategy=strategy,
        generation=generation,
    )


def write_config(config: W2SConfig, path: str | Path | None) -> dict[str, Any]:
    """The config as a plain mapping, written to ``path`` as YAML if there is one.

    Raises:
        ConfigError: A value has no form in YAML, or the file cannot be written.
    """
    chat = config.type == "chat"
    values: dict[str, Any] = {"type": "chat"} if chat else {}
    values["proposer"] = config.proposer.written(chat)
    if config.guides is not None:
        values["guides"] = config.guides.written(chat)
    if config.guides is not None or config.scoring is not None:
        values["scorer"] = config.scoring and config.scoring.written(chat)
    values["strategy"] = config.strategy.written(chat)
    values["generation"] = config.generation.model_dump(mode="json", exclude_none=True)
    if path is not None:
        try:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            Path(path).write_text(text, encoding="utf-8")
        except (yaml.YAMLError, OSError) as error:
            raise ConfigError(f"cannot write the config to {str(path)!r}: {error}") from error
    return values
