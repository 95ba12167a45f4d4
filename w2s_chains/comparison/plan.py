"""Remember which configs and rewards a folder has rows of, and refuse to mix in others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter

from w2s_chains.comparison.rows import write_file
from w2s_chains.comparison.study import Entry, Study
from w2s_chains.config.sections import GenerationConfig
from w2s_chains.errors import ConfigError
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.rewards import Reward
from w2s_chains.search import AnyStrategy, SearchStrategy
from w2s_chains.user_files import parse_yaml, read_text

STRATEGIES: TypeAdapter[SearchStrategy] = TypeAdapter(AnyStrategy)

MOST_BYTES = 2**26
"""The largest file of a plan; this package wrote it, perhaps after many runs."""


def remember(study: Study, path: Path, with_rows: set[str]) -> None:
    """Write down the configs and rewards; refuse to change those that have rows already.

    Args:
        study: The study that is compared now.
        path: The file; configs and rewards of earlier runs stay in it.
        with_rows: The configs that have rows.

    Raises:
        ConfigError: A config with rows, or a reward, differs from the earlier one of that name.
        W2SError: The file cannot be written.
    """
    now = {
        "configs": {name: _config(config) for name, config in study.configs.items()},
        "rewards": {reward.column: _reward(reward) for reward in study.rewards},
    }
    before = _known(path) if path.exists() else {}
    for kind, parts in now.items():
        for name, part in parts.items():
            known = before.get(kind, {}).get(name)
            relevant = kind == "rewards" or name in with_rows
            if relevant and known is not None and _today(known) != part:
                raise ConfigError(
                    f"{path.parent} has rows of another {kind[:-1]} {name!r}: it was {known} and "
                    f"is now {part}; give it another name, or use another folder"
                )
    both = {kind: {**before.get(kind, {}), **parts} for kind, parts in now.items()}
    write_file(path, yaml.safe_dump(both, sort_keys=False, allow_unicode=True).encode())


def _known(path: Path) -> dict[str, dict[str, Any]]:
    """Read the configs and rewards of earlier runs.

    Raises:
        ConfigError: It is no file that a comparison has written.
    """
    found: Any = parse_yaml(read_text(path, "plan", MOST_BYTES), str(path))[1]
    known = _with_new_names({} if found is None else found)
    if not isinstance(known, dict) or not all(
        isinstance(parts, dict) for parts in cast("dict[str, Any]", known).values()
    ):
        raise ConfigError(
            f"{path} is no plan of a comparison, which maps 'configs' and 'rewards' to mappings; "
            "restore it, or use another folder"
        )
    return cast("dict[str, dict[str, Any]]", known)


def _with_new_names(before: Any) -> Any:
    """Rename ``guide`` to ``guides`` in configs that an earlier release wrote down."""
    if isinstance(before, dict):
        items = cast("dict[str, Any]", before).items()
        return {"guides" if k == "guide" else k: _with_new_names(v) for k, v in items}
    if isinstance(before, list):
        return [_with_new_names(item) for item in cast("list[Any]", before)]
    return before


def _today(known: dict[str, Any]) -> dict[str, Any]:
    """Give a strategy the fields that it got since it was written down, with their defaults."""
    try:
        strategy = STRATEGIES.validate_python(known["strategy"])
    except (KeyError, ValueError):  # a reward, or a strategy that is gone
        return known
    return {**known, "strategy": strategy.model_dump(mode="json")}


def _config(config: Entry | W2SLLM) -> dict[str, Any]:
    """Return all that a config's answers depend on except the seed, as plain values."""
    values: dict[str, Any]
    if isinstance(config, W2SLLM):
        try:
            values = config.to_config()
        except ConfigError:  # its parts were built by hand, so there is no config to write down
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
    """Return all that a reward's values depend on; a file counts by its content."""
    values = reward.model_dump(mode="json")
    for name in type(reward).model_fields:
        if isinstance(path := getattr(reward, name), Path):
            values[name] = f"{path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return values
