"""What the rows of a folder come from: they are never mixed with those of something else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from w2s_chains.comparison.rows import write_file
from w2s_chains.comparison.study import Entry, Study
from w2s_chains.config.sections import GenerationConfig
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.rewards import Reward


def remember(study: Study, path: Path, with_rows: set[str]) -> None:
    """Write down what the rows come from; refuse to mix them with those of something else.

    Args:
        study: What is compared now.
        path: The file that has it written down; what was compared earlier stays in it.
        with_rows: The configs that have rows.

    Raises:
        ConfigError: A config with rows, or a reward, was another one under the same name.
        W2SError: The file cannot be written.
    """
    now = {
        "configs": {name: _config(config) for name, config in study.configs.items()},
        "rewards": {reward.column: _reward(reward) for reward in study.rewards},
    }
    before: Any = {}
    if path.exists():
        try:
            before = yaml.safe_load(path.read_text("utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read {str(path)!r}: {error}") from error
    for kind, parts in now.items():
        for name, part in parts.items():
            known = before.get(kind, {}).get(name)
            relevant = kind == "rewards" or name in with_rows
            if relevant and known is not None and known != part:
                raise ConfigError(
                    f"{path.parent} holds answers of another {kind[:-1]} {name!r}: it was {known} "
                    f"and now is {part}; give it another name, or give another folder"
                )
    both = {kind: {**before.get(kind, {}), **parts} for kind, parts in now.items()}
    write_file(path, yaml.safe_dump(both, sort_keys=False, allow_unicode=True).encode())


def _config(config: Entry | W2SLLM) -> dict[str, Any]:
    """What a config's answers depend on, as plain values; the seed aside."""
    values: dict[str, Any]
    if isinstance(config, W2SLLM):
        try:
            values = config.to_config()
        except ConfigError:  # built by hand: its parts have no names to write down
            generation = {name: getattr(config, name) for name in GenerationConfig.model_fields}
            values = {
                "parts": "built by hand",
                "strategy": config.strategy.model_dump(mode="json"),
                "generation": GenerationConfig(**generation).model_dump(mode="json"),
            }
    else:
        values = config.model_dump(mode="json", exclude={"seeds"}, exclude_defaults=True)
        values["strategy"] = config.strategy.model_dump(mode="json")
        values["scored"] = config.scoring is not None
    values.get("generation", {}).pop("seed", None)
    return values


def _reward(reward: Reward) -> dict[str, Any]:
    """What a reward's values depend on; of a file its content, wherever it is."""
    values = reward.model_dump(mode="json")
    for name in type(reward).model_fields:
        if isinstance(path := getattr(reward, name), Path):
            values[name] = f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return values
