"""What parts promise: the base of all contracts, and those of a guide and of a pair of guides.

A contract has one method that a part must have. Everything else is declared beside it with a
default, so that nobody has to guess what a part can do. Subclass the contract to have the
defaults; any other object with the one method is taken too, and read through ``Contract.of``.
"""

from __future__ import annotations

import inspect
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import ConfigError


class Contract(ABC):
    """Base of all contracts.

    Attributes:
        spec: The config that this part was built from, a pydantic model; None if it was built by
            hand.
    """

    required: ClassVar[str]
    """The method that makes an object a part of this kind."""

    role: ClassVar[str] = "part"
    """What a part of this kind is called in messages."""

    spec: Any = None

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        required = cls.__dict__.get("required")
        if required is None:
            return NotImplemented
        return any(required in base.__dict__ for base in other.__mro__) or NotImplemented

    @classmethod
    def of(cls, part: object) -> Self:
        """``part``, with this contract's defaults for whatever it does not declare itself."""
        if cls in type(part).__mro__:
            return cast("Self", part)
        return cast("Self", _Defaulted(part, cls))

    @classmethod
    def offered(cls, part: object, name: str) -> bool:
        """Whether ``part`` has a ``name`` of its own, rather than the contract's default."""
        part = _itself(part)
        own = inspect.getattr_static(part, name, None)
        return own is not None and own is not inspect.getattr_static(cls, name)

    def to_config(self) -> BaseModel:
        """The config that builds this part again.

        Raises:
            ConfigError: It was built by hand, so that no config can name it.
        """
        config = _config_of(self)
        if config is None:
            raise by_hand(self, self.role)
        return config

    def cache_key(self) -> str:
        """A key that only parts with the same answers share; caches of answers rely on it.

        Built from the type and the config. A part without a config that says everything has a key
        of its own, which holds in this process.
        """
        config = _config_of(self)
        fields = {} if config is None else type(config).model_fields
        if config is None or any(field.exclude for field in fields.values()):
            return unique_key(self)
        return f"{self.__class__!r}({ {name: getattr(config, name) for name in fields} })"


def key_of(part: object | None) -> str | None:
    """The cache key of a part.

    A subclass may answer otherwise than its base, so it has a key of its own unless it defines
    ``cache_key`` itself.
    """
    if part is None:
        return None
    if _said_by(part, "cache_key") in (type(part), Contract):
        return Contract.of(part).cache_key()
    return unique_key(part)


def config_of(part: object, contract: type[Contract], **beside: Any) -> Any:
    """The config that builds a part again.

    A subclass does not count as its base, which would be built instead, unless it defines
    ``to_config`` itself.

    Args:
        part: The part.
        contract: What kind of part it is.
        **beside: Passed on to ``to_config``.

    Raises:
        ConfigError: It was built by hand, so that no config can name it.
    """
    own = contract.of(part)
    if _said_by(part, "to_config") not in (type(part), contract, Contract):
        raise by_hand(own, own.role)
    return own.to_config(**beside)


def _said_by(part: object, name: str) -> type:
    """The class of a part that defines ``name``; ``Contract`` where none does."""
    return next((base for base in type(part).__mro__ if name in base.__dict__), Contract)


class Guide(Contract):
    """One small model, which says how likely it finds a text."""

    required = "loglikelihood"
    role = "guide"

    @abstractmethod
    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Log p(response | prompt) of each hypothesis, in nats.

        Summed over the tokens from the root; one that ended its turn counts its end token too.
        """

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs.

        Raises:
            PromptError: The prompt, with an answer of ``max_tokens``, cannot be read.
        """

    @property
    def max_positions(self) -> int | None:
        """Most tokens of prompt and answer together; None where nothing is known."""
        return None


class BaseGuidePair(Contract):
    """A tuned and an untuned guide, read together."""

    required = "loglikelihoods"
    role = "guide pair"

    @abstractmethod
    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        """(log p_tuned, log p_untuned) of each hypothesis, in nats."""

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs; raises like ``Guide.check``."""

    def local_models(self) -> tuple[Any, Any] | None:
        """The tuned and the untuned model in this process, which steering token by token needs."""
        return None

    def read_together(self, others: Sequence[object], hypotheses: Sequence[Hypothesis]) -> None:
        """Read what is new, for this pair and for others that share weights with it.

        Afterwards asking any of them finds the texts read already. By default nothing is read
        ahead.
        """

    @property
    def max_positions(self) -> int | None:
        """Most tokens that both guides read; None where nothing is known."""
        return None


class _Defaulted:
    """Any object seen through a contract: what it does not declare, the contract's defaults say."""

    def __init__(self, part: object, contract: type[Contract]) -> None:
        self.part = part
        self._contract = contract

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Defaults speak of the part, not of this view of it.
        return type(self.part)

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self.part, name)
        except AttributeError:
            default = inspect.getattr_static(self._contract, name)
            return default.__get__(self) if hasattr(default, "__get__") else default


def _itself(part: Any) -> Any:
    return part.part if type(part) is _Defaulted else part


def _config_of(part: Contract) -> BaseModel | None:
    """What a part was built from: itself, if it is its own config."""
    itself = _itself(part)
    return itself if isinstance(itself, BaseModel) else part.spec


def by_hand(part: object, role: str) -> ConfigError:
    """The error for a part that no config can name."""
    return ConfigError(
        f"the {role} ({part.__class__.__name__}) was built by hand, so that no config can name it; "
        "load it by name, or have a config build it, to write it to YAML"
    )


_keys: dict[int, tuple[object, str]] = {}
"""Keys of parts that were built by hand, by identity: equal ones may still answer differently."""


def unique_key(part: object) -> str:
    """A key that no other object of this process ever has."""
    part = _itself(part)
    at = id(part)
    if at not in _keys:
        try:
            weakref.finalize(part, _keys.pop, at, None)
            kept = None
        except TypeError:  # no weak references to it: it is kept, so that its id is not used again
            kept = part
        _keys[at] = kept, f"{type(part).__name__}-{os.urandom(8).hex()}"
    return _keys[at][1]
