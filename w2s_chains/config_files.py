"""Configs as files, mappings and flat arguments: reading and writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from w2s_chains.backend.spec import ModelSpec
from w2s_chains.config import GenerationSection, ModelType, W2SConfig
from w2s_chains.errors import ConfigError
from w2s_chains.faults import clear_errors, read_yaml
from w2s_chains.guides.section import GuideSection
from w2s_chains.guides.served import ServedModel
from w2s_chains.plugins import did_you_mean
from w2s_chains.proposers import ProposerConfig
from w2s_chains.scorer_section import SCORERS, Mixture
from w2s_chains.scorers import ScorerConfig


def load_config(config: str | Path | Mapping[str, Any], kind: ModelType | None = None) -> W2SConfig:
    """Read a config.

    Args:
        config: A YAML file, or a mapping of the same form.
        kind: The type of a config that says none.

    Raises:
        ConfigError: It is not valid; the message has every fault with file, line and choices.
    """
    if isinstance(config, Mapping):
        with clear_errors(W2SConfig, config, "config"):
            return W2SConfig.model_validate({"type": kind, **config})
    path = Path(config)
    tree, values = read_yaml(path, W2SConfig.model_fields)
    with clear_errors(W2SConfig, values, str(path), tree):
        return W2SConfig.model_validate({"type": kind, **values})


def sections_of(
    proposer: str, tuned: str | None, untuned: str | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat arguments as the sections of a config, and what belongs to the LLM itself."""
    models: dict[str, dict[str, Any]] = {"proposer": {}, "guide": {}, "tuned": {}, "untuned": {}}
    everywhere = {name: options[name] for name in ("device", "dtype") if name in options}
    sections: dict[str, Any] = {"generation": {}}
    fields: dict[str, Any] = {}
    for name, value in options.items():
        role, _, option = name.partition("_")
        if name in everywhere:
            continue
        if role in models and option:
            if option not in ModelSpec.model_fields:
                hint = did_you_mean(name, [f"{role}_{field}" for field in ModelSpec.model_fields])
                raise ConfigError(f"unknown option {name!r}{hint}")
            if role != "proposer" and tuned is None and untuned is None:
                raise ConfigError(f"option {name!r} is for a guide, but tuned and untuned are None")
            models[role][option] = value
        elif name in GenerationSection.model_fields:
            sections["generation"][name] = value
        elif name == "strategy" or (name == "guide" and isinstance(value, str | Mapping)):
            sections[name] = value
        else:
            fields[name] = value
    sections["proposer"] = {"model": proposer, **everywhere, **models["proposer"]}
    if tuned is not None or untuned is not None:
        if "guide" in sections:
            raise ConfigError("guide names the pair, and so do tuned and untuned; give one of them")
        sections["guide"] = {
            name: {"model": model, **everywhere, **models["guide"], **models[name]}
            for name, model in (("tuned", tuned), ("untuned", untuned))
            if model is not None
        }
    return sections, fields


def _written(
    spec: ModelSpec | ServedModel | ProposerConfig, kind: ModelType | None
) -> dict[str, Any]:
    if isinstance(spec, ProposerConfig):
        return spec.model_dump(mode="json")
    if isinstance(spec, ServedModel):
        return spec.model_dump(exclude_defaults=True)
    always = {"chat": spec.chat} if kind == "chat" else {}  # its default is another one there
    return {**spec.model_dump(exclude_defaults=True), **always}


def _written_guide(guide: GuideSection, kind: ModelType | None) -> dict[str, Any]:
    named = zip(("tuned", "untuned"), guide.specs(), strict=True)
    return {name: _written(spec, kind) for name, spec in named}


def _written_scorer(scorer: ScorerConfig, kind: ModelType | None) -> dict[str, Any]:
    if type(scorer) not in SCORERS.values():
        return scorer.model_dump(mode="json")
    values = scorer.model_dump(exclude_defaults=True, exclude={"parts"})
    if isinstance(scorer, Mixture):
        values["parts"] = [
            {
                "weight": part.weight,
                "scorer": _written_scorer(part.scorer, kind),
                **({} if part.guide is None else {"guide": _written_guide(part.guide, kind)}),
            }
            for part in scorer.parts
        ]
    return values


def write_config(config: W2SConfig, path: str | Path | None) -> dict[str, Any]:
    """The config as a plain mapping, written to ``path`` as YAML if there is one.

    Raises:
        ConfigError: A value has no form in YAML, or the file cannot be written.
    """
    values: dict[str, Any] = {} if config.type in (None, "llm") else {"type": config.type}
    values["proposer"] = _written(config.proposer, config.type)
    if config.guide is not None:
        values["guide"] = _written_guide(config.guide, config.type)
    if config.guide is not None or config.scoring is not None:
        values["scorer"] = config.scoring and _written_scorer(config.scoring, config.type)
    values["strategy"] = config.strategy.model_dump(mode="json")
    values["generation"] = config.generation.model_dump(mode="json", exclude_none=True)
    if path is not None:
        try:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            Path(path).write_text(text, encoding="utf-8")
        except (yaml.YAMLError, OSError) as error:
            raise ConfigError(f"cannot write the config to {str(path)!r}: {error}") from error
    return values
