"""``Study``: configs, prompts, rewards and seeds to compare, from a file or from arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from w2s_chains.comparison.prompts import STDIN, checked_prompts, read_prompts
from w2s_chains.comparison.report.columns import ALWAYS
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.configs import Config, config_errors
from w2s_chains.errors import ConfigError, shown
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.rewards import AnyReward
from w2s_chains.rewards.base import FileBeside
from w2s_chains.search import SearchStrategy
from w2s_chains.user_files import line_of, read_yaml
from w2s_chains.values import is_text

Seeds = Annotated[tuple[int, ...], Field(min_length=1)]
"""One or more seeds."""

Yaml = Mapping[str, Any] | list[Any] | str | float | None
"""Anything that a YAML file may hold."""

AnyStrategy = SearchStrategy | Mapping[str, Any] | str
"""A strategy, a mapping with its type and options, or its type."""


class Entry(W2SConfig):
    """One config of a study.

    Attributes:
        seeds: The config's own seeds, instead of the study's.
    """

    seeds: Seeds | None = None


def _as_entry(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, W2SLLM | Entry):
        return value
    if isinstance(value, str | Path):
        context: Mapping[str, Any] = info.context or {}
        folder = context.get("folder")
        value = load_config(Path(value) if folder is None else Path(folder) / value)
    if isinstance(value, W2SConfig):
        return Entry(**{name: getattr(value, name) for name in value.model_fields_set})
    if not isinstance(value, Mapping):
        raise ConfigError("a config is a file, a mapping with sections, or a W2SLLM")
    return Entry.model_validate(value, context=info.context)


class Study(Config):
    """Configs that answer the same prompts, and rewards that judge their answers.

    Attributes:
        prompts: A file, or the prompts themselves.
        prompt_field: Field or column of the file that holds the prompt.
        limit: Use only this many prompts, from the start.
        seeds: The seeds; every config answers every prompt once with each of them.
        rewards: The judges; repetition and the proposer's loglikelihood are always included.
        configs: The configs by name; a ``W2SLLM`` is used as it is. The first is the baseline of
            the differences.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    prompts: tuple[str, ...] | FileBeside
    prompt_field: str = "prompt"
    limit: int | None = Field(default=None, ge=1)
    seeds: Seeds = (0,)
    rewards: tuple[AnyReward, ...] = ()
    configs: dict[str, Annotated[W2SLLM | Entry, BeforeValidator(_as_entry)]] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns = [reward.column for reward in self.rewards]
        for column in columns:
            if columns.count(column) > 1:
                raise ValueError(f"two rewards are called {column!r}; give one another name")
        for reward in self.rewards:
            if reward.column in {"answer", "guide_score", "kl", *ALWAYS} - {reward.fills}:
                raise ValueError(
                    f"{reward.column!r} is a column that every comparison has; give the reward "
                    "another name"
                )
            if reward.fills == "loglikelihood" != reward.column:
                raise ValueError(
                    f"reward {reward.column!r} has no model, so it is the proposer's own "
                    "loglikelihood, which every comparison has; give it a model, or leave it out"
                )
        for name, config in self.configs.items():
            if not name.strip() or "\n" in name or not is_text(name):
                raise ValueError(f"a config is called {shown(name)}; give it a name on one line")
            n = config.n if isinstance(config, W2SLLM) else config.generation.n
            if n != 1:
                raise ValueError(f"config {name!r} has n={n}; leave n at 1 and use more seeds")
        return self

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """Return the seeds of one config, each of them once."""
        config = self.configs[name]
        own = config.seeds if isinstance(config, Entry) else None
        return tuple(dict.fromkeys(self.seeds if own is None else own))

    def read_prompts(self) -> list[str]:
        """Return the prompts, read from their file if there is one.

        Raises:
            ConfigError: There are no prompts, or their file cannot be read.
        """
        if isinstance(self.prompts, Path):
            return read_prompts(self.prompts, self.prompt_field, self.limit)
        prompts = enumerate(self.prompts[: self.limit], 1)
        return checked_prompts(
            ((f"prompt {n}", prompt) for n, prompt in prompts), "the list, and no file is given"
        )


class _Rewards(BaseModel):
    """Rewards from a caller, whose paths are not relative to the study's file."""

    rewards: tuple[AnyReward, ...]


def load_study(path: str | Path, **fields: Any) -> Study:
    """Read a study from a YAML file.

    A key ``base`` holds sections that all configs share. A config's own section replaces the shared
    one; only the fields of ``generation`` are merged.

    Args:
        path: The file.
        **fields: Fields of ``Study`` that replace those of the file; ``seeds`` also replaces those
            of single configs.

    Raises:
        ConfigError: The file is not valid; the message lists every fault with file and line.
    """
    tree, values = read_yaml(path, "config", Study.model_fields)
    path = Path(path)
    context = {"folder": path.parent}
    merged = {**_merged(values, str(path)), **fields}
    with config_errors(Study, merged, str(path), partial(line_of, tree)):
        study = Study.model_validate(merged, context=context)
    return _same_seeds(study) if "seeds" in fields else study


def _same_seeds(study: Study) -> Study:
    """Return the study without the seeds of single configs."""
    configs = {
        name: config.model_copy(update={"seeds": None}) if isinstance(config, Entry) else config
        for name, config in study.configs.items()
    }
    return study.model_copy(update={"configs": configs})


def make_study(
    configs: Study | str | Path | Mapping[str, Any] | Sequence[str | Path],
    strategies: Mapping[str, Any] | Sequence[Any] | None = None,
    **fields: Any,
) -> Study:
    """Make a study from the arguments of ``compare``.

    Args:
        configs: A study or its file; or configs, as a mapping from names or as files, which are
            named after the files.
        strategies: Strategies to compare on one config, each an object or a mapping with a
            ``type``; a mapping of them gives them names.
        **fields: Other fields of ``Study``; None keeps the study's own value.

    Raises:
        ConfigError: Something is missing or not valid.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if isinstance(prompts := given.get("prompts"), str | Path):
        given["prompts"] = STDIN if str(prompts) == "-" else Path(prompts).absolute()
    if "rewards" in given:
        own = {"rewards": given["rewards"]}
        with config_errors(_Rewards, own, "comparison"):
            given["rewards"] = _Rewards.model_validate(own).rewards
    if isinstance(configs, Study):
        return _changed(configs, strategies, given)
    if isinstance(configs, str | Path):
        configs = [configs]
    if not isinstance(configs, Mapping):
        if not isinstance(cast("object", configs), Sequence):
            raise ConfigError(f"configs are files or a mapping of them, not {shown(configs)}")
        if len(configs) == 1 and _is_study(configs[0]):
            return _changed(load_study(configs[0], **given), strategies, {})
        configs = _by_stem(configs)
    values = {"prompts": (), **given, "configs": dict(configs)}
    with config_errors(Study, values, "comparison"):
        return _changed(Study.model_validate(values), strategies, {})


def _is_study(path: str | Path) -> bool:
    return "configs" in read_yaml(path, "config", Study.model_fields)[1]


def _changed(study: Study, strategies: Any, given: Mapping[str, Any]) -> Study:
    """Return the study with strategies and other fields replaced."""
    values = {name: getattr(study, name) for name in Study.model_fields} | dict(given)
    if strategies is not None:
        if len(study.configs) != 1:
            raise ConfigError(
                f"strategies are tried on one config, but there are {len(study.configs)}: "
                f"{', '.join(study.configs)}"
            )
        [only] = study.configs.values()
        values["configs"] = {
            name: _with_strategy(only, strategy)
            for name, strategy in named_strategies(strategies).items()
        }
    with config_errors(Study, values, "comparison"):
        changed = Study.model_validate(values)
    return _same_seeds(changed) if "seeds" in given else changed


def _with_strategy(config: Entry | W2SLLM, strategy: Any) -> Entry | W2SLLM:
    """Return a config with another strategy."""
    if isinstance(config, W2SLLM):
        fields = {name: getattr(config, name) for name in type(config).model_fields}
        return type(config)(**{**fields, "strategy": strategy})
    values: dict[str, Any] = {name: getattr(config, name) for name in config.model_fields_set}
    values["strategy"] = strategy
    with config_errors(Entry, values, "strategies"):
        return Entry.model_validate(values)


def named_strategies(strategies: Mapping[str, Any] | Sequence[AnyStrategy]) -> dict[str, Any]:
    """Return strategies by name; one without a name is called after its type and options."""
    if isinstance(strategies, Mapping) and "type" not in strategies:
        return dict(strategies)
    if not isinstance(strategies, Mapping | list | tuple):
        raise ConfigError(f"strategies are a list or a mapping, not {shown(strategies)}")
    listed = [strategies] if isinstance(strategies, Mapping) else list(strategies)
    named = {_label(strategy): strategy for strategy in listed}
    if len(named) < len(listed):
        raise ConfigError("two of the strategies are the same; leave one out")
    return named


def _label(strategy: AnyStrategy) -> str:
    """Name a strategy after its type and options: ``chunk_beam width=4 successors=4``."""
    if isinstance(strategy, SearchStrategy):
        strategy = {"type": strategy.type, **strategy.model_dump(exclude_defaults=True)}
    if not isinstance(strategy, Mapping):
        return str(strategy)
    others = (f"{name}={value}" for name, value in strategy.items() if name != "type")
    return " ".join([str(strategy.get("type")), *others])


def _by_stem(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Name config files after their file names."""
    for path in paths:
        if not isinstance(cast("object", path), str | Path):
            raise ConfigError(f"a config is a file, not {shown(path)}")
    named = {Path(path).stem: Path(path) for path in paths}
    if len(named) < len(paths):
        raise ConfigError(
            "two configs have the same file name, which is their name in the comparison: "
            f"{', '.join(map(str, paths))}; rename one, or write a study with a key 'configs'"
        )
    return named


def _merged(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the study with the sections of ``base`` written out in every config."""
    values = dict(values)
    base: Yaml = values.pop("base", None) or {}
    if not isinstance(base, Mapping):
        raise ConfigError(f"{source}: base must be a mapping with sections, not {shown(base)}")
    configs: Mapping[str, Yaml] | None = values.get("configs")
    if base and isinstance(configs, Mapping):
        values["configs"] = {
            name: _over(base, own) if isinstance(own, Mapping | None) else own
            for name, own in configs.items()
        }
    return values


def _over(base: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put a config's own sections over the shared ones."""
    both = {**base, **(own or {})}
    shared, changed = base.get("generation"), (own or {}).get("generation")
    if isinstance(shared, Mapping) and isinstance(changed, Mapping):
        both["generation"] = {**shared, **changed}
    return both
