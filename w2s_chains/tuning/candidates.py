"""The searches that ``tune`` tries on a config, cheap ones first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2s_chains.backend.loading.config import Model
from w2s_chains.comparison.study import named_strategies
from w2s_chains.config.sections import GenerationConfig, W2SConfig
from w2s_chains.core.configs import config_errors
from w2s_chains.errors import ConfigError
from w2s_chains.scorers.log_ratio import LogRatioConfig
from w2s_chains.search import Sampling

BASELINE = "sampling"
"""Plain sampling with the config's own parameters, which every candidate is compared with."""

_FLUENT: Mapping[str, Any] = {
    "scorer": {"base_weight": 0.2},
    "generation": {"repetition_penalty": 1.05},
}
_DISTINCT: Mapping[str, Any] = {"generation": {"min_p": 0.1, "repetition_penalty": 1.1}}
_BALANCED: Mapping[str, Any] = {
    "scorer": {"base_weight": 0.15, "repetition_penalty": 3.0},
    "generation": {"min_p": 0.05, "repetition_penalty": 1.05},
}


def _beam(width: int, successors: int, chunk_tokens: int, **more: Any) -> dict[str, Any]:
    options = {"width": width, "successors": successors, "chunk_tokens": chunk_tokens, **more}
    return {"type": "chunk_beam", **options}


_STANDARD: Mapping[str, Mapping[str, Any]] = {
    # One row of the large model for every token.
    "token search 4": {"strategy": {"type": "token_search", "candidates": 4}},
    "token search 8": {"strategy": {"type": "token_search", "candidates": 8}},
    "token search 16, tau 0.5": {
        "strategy": {"type": "token_search", "candidates": 16, "tau": 0.5}
    },
    "token search 8, distinct": {
        "strategy": {"type": "token_search", "candidates": 8, "distinct": True},
        **_DISTINCT,
    },
    "token search 8, fluent": {"strategy": {"type": "token_search", "candidates": 8}, **_FLUENT},
    "token search 8, balanced": {
        "strategy": {"type": "token_search", "candidates": 8, "distinct": True},
        **_BALANCED,
    },
    "emulated fine-tuning 0.5": {"strategy": {"type": "emulated_fine_tuning", "beta": 0.5}},
    "emulated fine-tuning 1": {"strategy": {"type": "emulated_fine_tuning", "beta": 1.0}},
    # Two to four.
    "chunk beam 2,4,1": {"strategy": _beam(2, 4, 1)},
    "chunk beam 2,4,1, fluent": {"strategy": _beam(2, 4, 1), **_FLUENT},
    "best-of-4": {"strategy": {"type": "best_of_n", "n": 4}},
    "chunk beam 2,2,5": {"strategy": _beam(2, 2, 5)},
    "steering 1 + chunk beam 2,2,5": {"strategy": _beam(2, 2, 5, steering=1.0)},
    # More.
    "chunk beam 4,4,5": {"strategy": _beam(4, 4, 5)},
    "best-of-16": {"strategy": {"type": "best_of_n", "n": 16}},
}
"""Strategy by name, and what else differs from the config: fields of the scorer and of the
sampling. The numbers are those of the project's own study (docs/results.md)."""


def candidates(config: W2SConfig, strategies: Any = None) -> dict[str, W2SConfig]:
    """Return the configs to try by name; the first is plain sampling.

    Args:
        config: The config, which has a scorer.
        strategies: Strategies to try instead of the standard ones, as in ``compare``.

    Raises:
        ConfigError: A strategy is not valid.
    """
    found = {BASELINE: _changed(config, {"strategy": Sampling()})}
    if strategies is not None:
        named = named_strategies(strategies)
        return found | {name: _changed(config, {"strategy": one}) for name, one in named.items()}
    found["as given"] = config
    for name, changes in _STANDARD.items():
        # The base's loglikelihood belongs to this scorer, and needs the model in this process.
        if "scorer" not in changes or (
            isinstance(config.scoring, LogRatioConfig) and isinstance(config.proposer, Model)
        ):
            found[name] = _changed(config, changes)
    if config.strategy in [one.strategy for name, one in found.items() if name != "as given"]:
        del found["as given"]
    return found


def _changed(config: W2SConfig, changes: Mapping[str, Any]) -> W2SConfig:
    """Return a config with another strategy, and with other fields of scorer and generation."""
    values = {name: getattr(config, name) for name in config.model_fields_set}
    values["strategy"] = changes["strategy"]
    if own := changes.get("scorer"):
        assert config.scoring is not None, "checked before"
        values["scorer"] = config.scoring.model_copy(update=dict(own))
    if own := changes.get("generation"):
        said = config.generation.model_dump(exclude_unset=True)
        values["generation"] = GenerationConfig(**{**said, **own})
    with config_errors(W2SConfig, values, "strategies"):
        return W2SConfig.model_validate(values)


def require_scorer(config: W2SConfig) -> None:
    """Raise ConfigError if nothing tells good partial answers from bad ones."""
    if config.scoring is None:
        raise ConfigError(
            "this config has no scorer, so every search would answer like plain sampling; add a "
            "section guides, or a scorer"
        )
