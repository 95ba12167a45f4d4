"""``Catalog``: the models of a server, their names, and the searches that a name can ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from w2s_chains.config.files import load_config
from w2s_chains.config.json_schema import fields_of
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer
from w2s_chains.core.prompts import Prompt
from w2s_chains.engine.job import Job
from w2s_chains.engine.scheduler import Engine
from w2s_chains.errors import ConfigError, ServerError, W2SError, did_you_mean
from w2s_chains.langchain.chat_models import ChatW2S
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.search import STRATEGY, SearchStrategy, build_strategy
from w2s_chains.serving.requests import Options

AT = "@"
"""Stands between the name of a model and that of a search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A model under a name.

    Attributes:
        name: The name.
        model: The model.
        strategies: Searches by the names that the config gives them.
    """

    name: str
    model: W2SLLM | ChatW2S
    strategies: Mapping[str, SearchStrategy] = field(default_factory=dict[str, SearchStrategy])

    @cached_property
    def chat(self) -> ChatW2S | None:
        """The model for conversations: a chat model, or one whose models have chat templates."""
        if isinstance(self.model, ChatW2S):
            return self.model
        return ChatW2S(**_fields(self.model)) if self._has_template else None

    @cached_property
    def llm(self) -> W2SLLM | None:
        """The model for raw text; None if a chat template would make a turn of it."""
        if isinstance(self.model, W2SLLM):
            return self.model
        return None if self._has_template else W2SLLM(**_fields(self.model))

    @property
    def _has_template(self) -> bool:
        tokenizer = Proposer.of(self.model.proposer).tokenizer
        if tokenizer is None:  # it is behind a server, which renders chats as it likes
            return isinstance(self.model, ChatW2S)
        return tokenizer.chat is not None

    @cached_property
    def offered(self) -> list[str]:
        """The names of the searches that this model can run."""
        types = [*STRATEGY.builtins, *sorted(STRATEGY.entry_points)]
        return [*self.strategies, *(t for t in types if t not in self.strategies and self._can(t))]

    @cached_property
    def described(self) -> dict[str, Any]:
        """Return what a page needs to ask this model: its config, and the fields of searches."""
        model = self.model
        try:
            config = model.to_config()
        except ConfigError:  # a part was built by hand
            config = None
        types = {name: build_strategy(name) for name in self.offered if name not in self.strategies}
        kinds = {"chat": self.chat, "completion": self.llm}
        return {
            "name": self.name,
            "model": model.model_name,
            "kinds": [kind for kind, found in kinds.items() if found is not None],
            "config": config,
            "generation": {k: getattr(model, k) for k in ("temperature", "max_tokens", "seed")},
            "strategy": model.strategy.model_dump(mode="json"),
            "strategies": {k: one.model_dump(mode="json") for k, one in self.strategies.items()},
            "types": {name: one.model_dump(mode="json") for name, one in types.items()},
            "fields": {
                one.type: fields_of(type(one))
                for one in (model.strategy, *self.strategies.values(), *types.values())
            },
        }

    def _can(self, name: str) -> bool:
        model = self.model
        try:
            Job(
                root=Hypothesis.root(Prompt(text="x")),
                strategy=build_strategy(name),
                proposer=model.proposer,
                scorer=model.scorer,
                guides=model.guides,
            ).check()
        except ServerError:  # it may be there when it is asked
            return True
        except W2SError:
            return False
        return True

    def strategy(self, name: str | None, options: Options) -> SearchStrategy:
        """Return the search that a request asks for.

        Args:
            name: What the model's name has behind the ``@``; None without one.
            options: What the body says.

        Raises:
            ConfigError: There is no such search, or it has no such field.
        """
        found: SearchStrategy = self.model.strategy
        if name is not None and options.strategy is not None:
            raise ConfigError(
                "the model's name and w2s.strategy both name a search; leave out one of them"
            )
        wanted = options.strategy if name is None else name
        if isinstance(wanted, str):
            found = self.strategies.get(wanted) or build_strategy(wanted)
        elif wanted is not None:
            found = build_strategy(wanted)
        if options.steering is not None:
            found = build_strategy({**found.model_dump(), "steering": options.steering})
        return found


class Catalog:
    """All models of a server."""

    def __init__(self, models: Sequence[Served]) -> None:
        """Check the names.

        Raises:
            ConfigError: There is no model, a name is given twice, or names a search.
        """
        _check_names([served.name for served in models])
        self._names = {served.name: served.offered for served in models}  # found out once, now
        self._served = {served.name: served for served in models}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    def find(self, name: str) -> tuple[Served, str | None] | None:
        """Return a model, and the search that the name asks for; None if there is no such one."""
        model, at, strategy = name.partition(AT)
        served = self._served.get(model)
        if served is None or (at and strategy not in self._names[model]):
            return None
        return served, strategy if at else None

    def hint(self, name: str) -> str:
        """Return what a message about an unknown name ends with."""
        model, _, _ = name.partition(AT)
        if model not in self._served:
            return did_you_mean(name, self._served)
        return did_you_mean(name, [f"{model}{AT}{one}" for one in self._names[model]])

    def names(self) -> list[str]:
        """Return all names that a request may give, each model before its searches."""
        return [
            name
            for model, searches in self._names.items()
            for name in (model, *(f"{model}{AT}{one}" for one in searches))
        ]


def read_models(configs: Sequence[str], engine: Engine) -> list[Served]:
    """Load the models of several configs; equal weights are loaded once.

    Args:
        configs: Files, each with or without a name before it: "reviews=w2s.yaml". By default the
            name is that of the file.
        engine: Runs the searches of all of them.

    Raises:
        ConfigError: A config is not valid.
        ModelNotFoundError: A model cannot be found.
        UnsupportedModelError: A model cannot do what a search needs.
    """
    from w2s_chains.backend.loading.local_model import Loader

    read: list[tuple[str, Any]] = []
    for text in configs:
        name, equals, path = text.rpartition("=")
        if equals and Path(text).exists():
            name, path = "", text
        read.append((name or Path(path).stem, load_config(path)))
    _check_names([name for name, _ in read])
    load = Loader()
    found: list[Served] = []
    for name, config in read:
        kind = ChatW2S if config.type == "chat" else W2SLLM
        model = kind(**config.build({"engine": engine}, load))
        found.append(Served(name=name, model=model, strategies=config.strategies))
    return found


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("there is no model to serve; give at least one")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two models are called {name!r}; name them: NAME=FILE")
        if AT in name or not name:
            raise ConfigError(f"a model cannot be called {name!r}; give a name without {AT!r}")


def _fields(model: W2SLLM | ChatW2S) -> dict[str, Any]:
    """Return the fields that both kinds of models have, to make one kind of the other."""
    return {name: getattr(model, name) for name in W2SLLM.model_fields}


M = TypeVar("M", W2SLLM, ChatW2S)


def changed(model: M, overrides: Mapping[str, Any]) -> M:
    """Return a model with some fields changed and checked; it shares all parts.

    Raises:
        ConfigError: A value is out of range.
    """
    fields: dict[str, Any] = {name: getattr(model, name) for name in type(model).model_fields}
    return type(model)(**{**fields, **overrides})
