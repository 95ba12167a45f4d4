"""Parts back to YAML, and their identity for caches."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from w2s_chains.backend.loading.spec import Model
from w2s_chains.config.scorer import SCORERS, MixtureConfig, MixturePart, nested
from w2s_chains.config.sections import GenerationSection, ModelType, W2SConfig
from w2s_chains.errors import ConfigError
from w2s_chains.guides import GuidePair, HuggingFaceGuide, RemoteGuide
from w2s_chains.guides.config import Guides, GuideSpec
from w2s_chains.guides.remote import RemoteGuideConfig
from w2s_chains.proposers import HuggingFaceProposer, ProposerConfig
from w2s_chains.scorers import (
    LoglikelihoodScorer,
    LogRatioScorer,
    MixtureScorer,
    RewardModelScorer,
    ScorerConfig,
)
from w2s_chains.search import SearchStrategy

_OWN_OPTIONS = (LogRatioScorer, LoglikelihoodScorer, RewardModelScorer)
"""Scorers that have all that a config says about them in ``options``."""


def _scoring(scorer: Any, pair: Any, proposer: Any) -> ScorerConfig:
    """What a scorer was built from, beside the guides and the proposer of the config."""
    base = getattr(scorer, "base", None)
    if type(scorer) in (*_OWN_OPTIONS, MixtureScorer) and base not in (None, proposer):
        raise ConfigError(
            f"the scorer ({type(scorer).__name__}) takes the loglikelihood of another proposer "
            "than the one of this model, and a config names one"
        )
    if type(scorer) is MixtureScorer:
        parts: list[MixturePart] = []
        for part in scorer.parts:
            if type(part.scorer) is MixtureScorer:
                raise nested()
            own = getattr(part.scorer, "pair", None)
            parts.append(
                MixturePart(
                    weight=part.weight,
                    scorer=_scoring(part.scorer, pair, proposer),
                    guide=None if own in (None, pair) else _section(own),
                )
            )
        options = scorer.options
        return MixtureConfig(
            parts=tuple(parts),
            base_weight=options.base_weight,
            repetition_penalty=options.repetition_penalty,
        )
    if type(scorer) in _OWN_OPTIONS:
        return scorer.options
    return _spec("scorer", scorer, ScorerConfig)


def _section(pair: Any) -> Guides:
    if type(pair) is not GuidePair:
        raise _by_hand("guide", pair)
    return Guides(
        tuned=_spec("tuned guide", pair.tuned, GuideSpec),
        untuned=_spec("untuned guide", pair.untuned, GuideSpec),
    )


def _spec(role: str, part: Any, kind: Any) -> Any:
    """What a part was built from."""
    spec = part if isinstance(part, BaseModel) else getattr(part, "spec", None)
    if not isinstance(spec, kind):
        raise _by_hand(role, part)
    if isinstance(spec, Model):
        return spec.model_copy(update={"chat": spec.chat})  # given from now on
    return spec


def _by_hand(role: str, part: object) -> ConfigError:
    return ConfigError(
        f"the {role} ({type(part).__name__}) was built by hand, so that no config can name it; "
        "load it with from_pretrained, or have a config build it, to write it to YAML"
    )


_labels: dict[int, tuple[object, str]] = {}
"""Parts built by hand, by identity: equal ones may still answer differently."""


def describe(part: object) -> str | None:
    """A name that two different parts never share; it holds for this process at least."""
    if part is None:
        return None
    name = type(part).__name__
    if type(part) in (*_OWN_OPTIONS, MixtureScorer):
        read = [describe(getattr(part, role, None)) for role in ("pair", "base")]
        parts = [(one.weight, describe(one.scorer)) for one in getattr(part, "parts", ())]
        return f"{name}({getattr(part, 'options', None)!r}, {read}, {parts})"
    if type(part) is GuidePair:
        return f"{name}({describe(part.tuned)}, {describe(part.untuned)})"
    spec = getattr(part, "spec", None)
    if type(part) in (HuggingFaceProposer, HuggingFaceGuide, RemoteGuide) and spec is not None:
        return f"{name}({spec.model_dump(exclude_defaults=True)})"
    config = part if isinstance(part, BaseModel) else spec
    if isinstance(config, ScorerConfig | ProposerConfig):
        fields = type(config).model_fields
        if not any(field.exclude for field in fields.values()):
            own = {name: getattr(config, name) for name in fields}
            return f"{type(part)!r}({own}, {describe(getattr(part, 'pair', None))})"
    key = id(part)
    if key not in _labels:
        try:
            weakref.finalize(part, _labels.pop, key, None)
            kept = None
        except TypeError:  # no weak references to it: it is kept, so that its id is not used again
            kept = part
        _labels[key] = kept, f"{name}-{os.urandom(8).hex()}"
    return _labels[key][1]


def _written(
    spec: Model | RemoteGuideConfig | ProposerConfig, kind: ModelType | None
) -> dict[str, Any]:
    if isinstance(spec, ProposerConfig):
        return spec.model_dump(mode="json")
    if isinstance(spec, RemoteGuideConfig):
        return spec.model_dump(exclude_defaults=True)
    always = {"chat": spec.chat} if kind == "chat" else {}  # its default is another one there
    return {**spec.model_dump(exclude_defaults=True), **always}


def _written_guide(guide: Guides, kind: ModelType | None) -> dict[str, Any]:
    named = zip(("tuned", "untuned"), guide.specs(), strict=True)
    return {name: _written(spec, kind) for name, spec in named}


def _written_scorer(scorer: ScorerConfig, kind: ModelType | None) -> dict[str, Any]:
    if type(scorer) not in SCORERS.values():
        return scorer.model_dump(mode="json")
    values = scorer.model_dump(exclude_defaults=True, exclude={"parts"})
    if isinstance(scorer, MixtureConfig):
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


def of_parts(
    proposer: Any,
    scorer: Any,
    guide: Any,
    strategy: SearchStrategy,
    generation: GenerationSection,
    kind: ModelType | None = None,
) -> W2SConfig:
    """The config of parts that were loaded by name.

    Raises:
        ConfigError: A part was built by hand, or guide and scorer have different guides.
    """
    pair = getattr(scorer, "pair", guide)
    if guide is not None and guide is not pair:
        raise ConfigError(
            "guide and scorer.pair are different pairs, and a config names one; write it with "
            "guide=None or with scorer=None"
        )
    return W2SConfig(
        type=kind,
        proposer=_spec("proposer", proposer, Model | ProposerConfig),
        guide=None if pair is None else _section(pair),
        scorer=None if scorer is None else _scoring(scorer, pair, proposer),
        strategy=strategy,
        generation=generation,
    )
