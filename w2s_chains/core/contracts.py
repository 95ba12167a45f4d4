"""The contracts of parts: their base ``Contract``, ``Guide`` and ``BaseGuidePair``.

A contract has one required method; every other member has a default. Subclass the contract to
inherit the defaults. Any other object with the required method works too: ``Contract.of`` adds the
defaults. ``config_of`` and ``key_of`` return the config and the cache key of a part.
"""

from __future__ import annotations

import inspect
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

from pydantic import BaseModel

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import SamplingParams
from w2s_chains.errors import ConfigError, ScorerError


class Contract(ABC):
    """Base of all contracts.

    Attributes:
        spec: The config that this part was built from, a pydantic model; None if it was built by
            hand.
    """

    required: ClassVar[str]
    """The one method that a part of this kind must have."""

    role: ClassVar[str] = "part"
    """The name of this kind of part in messages."""

    spec: Any = None

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        required = cls.__dict__.get("required")
        if required is None:
            return NotImplemented
        return any(required in base.__dict__ for base in other.__mro__) or NotImplemented

    @classmethod
    def of(cls, part: object) -> Self:
        """Return ``part``, with this contract's default for every member that it lacks."""
        if cls in type(part).__mro__:
            return cast("Self", part)
        return cast("Self", _Defaulted(part, cls))

    @classmethod
    def offered(cls, part: object, name: str) -> bool:
        """Return whether ``part`` defines ``name`` itself instead of using the default."""
        part = _itself(part)
        own = inspect.getattr_static(part, name, None)
        return own is not None and own is not inspect.getattr_static(cls, name)

    def to_config(self) -> BaseModel:
        """Return the config that rebuilds this part.

        Raises:
            ConfigError: It was built by hand, so no config describes it.
        """
        config = _config_of(self)
        if config is None:
            raise by_hand(self, self.role)
        return config

    def cache_key(self) -> str:
        """Return a key that only parts with equal answers share; answer caches rely on it.

        It is built from the type and the config. A part without a complete config has a key that
        is unique in this process.
        """
        config = _config_of(self)
        fields = {} if config is None else type(config).model_fields
        if config is None or any(field.exclude for field in fields.values()):
            return unique_key(self)
        return f"{self.__class__!r}({ {name: getattr(config, name) for name in fields} })"


def key_of(part: object | None) -> str | None:
    """Return the cache key of a part.

    A subclass may answer differently from its base, so its key is unique unless it defines
    ``cache_key`` itself.
    """
    if part is None:
        return None
    if _said_by(part, "cache_key") in (type(part), Contract):
        return Contract.of(part).cache_key()
    return unique_key(part)


def config_of(part: object, contract: type[Contract], **beside: Any) -> Any:
    """Return the config that rebuilds a part.

    An inherited ``to_config`` is refused, because its config would build the base class.

    Args:
        part: The part.
        contract: The contract that it fulfils.
        **beside: Passed to ``to_config``.

    Raises:
        ConfigError: It was built by hand, so no config describes it.
    """
    own = contract.of(part)
    if _said_by(part, "to_config") not in (type(part), contract, Contract):
        raise by_hand(own, own.role)
    return own.to_config(**beside)


def _said_by(part: object, name: str) -> type:
    """Return the class of a part that defines ``name``, or ``Contract`` if none does."""
    return next((base for base in type(part).__mro__ if name in base.__dict__), Contract)


class Guide(Contract):
    """A small model that computes the loglikelihood of texts."""

    required = "loglikelihood"
    role = "guide"

    @abstractmethod
    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        """Return log p(response | prompt) of each hypothesis, in nats.

        It is the sum over all tokens of the response, including the end token if the hypothesis
        ended its turn.
        """

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs.

        Raises:
            PromptError: The prompt and an answer of ``max_tokens`` do not fit the model.
        """

    @property
    def max_positions(self) -> int | None:
        """Maximum tokens of prompt and answer together; None if unknown."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """What both guides think of an answer, token by token; the tokens are their own.

    Attributes:
        texts: The piece of the answer that each token adds. Together they are the answer. The last
            token of a character that several tokens spell has the character, and the others have
            an empty piece.
        tuned: log p_tuned of each token, in nats.
        untuned: log p_untuned of each token, in nats.
        ended: Whether the last token is the end of the turn, whose piece is empty.
    """

    texts: tuple[str, ...]
    tuned: tuple[float, ...]
    untuned: tuple[float, ...]
    ended: bool = False

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.tuned) == len(self.untuned):
            raise ScorerError(
                f"got {len(self.texts)} texts of tokens, {len(self.tuned)} values of the tuned "
                f"guide and {len(self.untuned)} of the untuned one; give one of each per token"
            )

    @property
    def ratios(self) -> tuple[float, ...]:
        """The log-ratio of each token, log p_tuned - log p_untuned, in nats."""
        return tuple(a - b for a, b in zip(self.tuned, self.untuned, strict=True))


class BaseGuidePair(Contract):
    """A tuned and an untuned guide, evaluated together."""

    required = "loglikelihoods"
    role = "guide pair"

    @abstractmethod
    def loglikelihoods(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, float]]:
        """Return (log p_tuned, log p_untuned) of each hypothesis, in nats."""

    def check(self, prompt: Prompt, sampling: SamplingParams) -> None:
        """Refuse a prompt before any model runs; raises like ``Guide.check``."""

    def token_ratios(self, hypotheses: Sequence[Hypothesis]) -> list[tuple[float, ...]]:
        """Return log p_tuned - log p_untuned of each token of each answer, in nats.

        The tokens are the guides' own, the end token included if the hypothesis ended its turn. The
        sum is the difference of both ``loglikelihoods``.

        Raises:
            ConfigError: The guides cannot compute it (the default).
        """
        raise ConfigError(
            f"log-ratios of single tokens are more than the guide pair {self.__class__.__name__} "
            "can tell; use a GuidePair of two local models with one vocabulary, or another strategy"
        )

    def check_token_ratios(self) -> None:
        """Refuse guides without ``token_ratios`` before any model runs.

        Raises:
            ConfigError: They cannot compute it, which is the default where that is the default.
        """
        if not BaseGuidePair.offered(self, "token_ratios"):
            self.token_ratios([])

    def token_scores(self, hypotheses: Sequence[Hypothesis]) -> list[TokenScores]:
        """Return what ``token_ratios`` returns with the two sides of it, and each token's text.

        Raises:
            ConfigError: The guides cannot compute it (the default).
        """
        raise ConfigError(
            f"scores of single tokens are more than the guide pair {self.__class__.__name__} "
            "can tell; use a GuidePair of two local models with one vocabulary"
        )

    def check_token_scores(self) -> None:
        """Refuse guides without ``token_scores``, as ``check_token_ratios`` does.

        Raises:
            ConfigError: They cannot compute it, which is the default where that is the default.
        """
        if not BaseGuidePair.offered(self, "token_scores"):
            self.token_scores([])

    def local_models(self) -> tuple[Any, Any] | None:
        """Return the tuned and untuned model if local; token-level steering needs them."""
        return None

    def read_together(self, others: Sequence[object], hypotheses: Sequence[Hypothesis]) -> None:
        """Evaluate new texts once for this pair and for other pairs that share its weights.

        Later calls on any of the pairs then use the cached results. Does nothing by default.
        """

    @property
    def max_positions(self) -> int | None:
        """Maximum tokens that both guides can read; None if unknown."""
        return None


class _Defaulted:
    """Wraps any object and supplies a contract's default for every member that it lacks."""

    def __init__(self, part: object, contract: type[Contract]) -> None:
        self.part = part
        self._contract = contract

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        # The defaults name the wrapped part's class in their messages.
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
    """Return the config that a part was built from: itself, if it is its own config."""
    itself = _itself(part)
    return itself if isinstance(itself, BaseModel) else part.spec


def by_hand(part: object, role: str) -> ConfigError:
    """Return the error for a part that no config describes."""
    return ConfigError(
        f"the {role} ({part.__class__.__name__}) was built by hand, so that no config can name it; "
        "load it by name, or have a config build it, to write it to YAML"
    )


_keys: dict[int, tuple[object, str]] = {}
"""Keys of hand-built parts by identity, since equal parts may still answer differently."""


def unique_key(part: object) -> str:
    """Return a key that no other object of this process ever has."""
    part = _itself(part)
    at = id(part)
    if at not in _keys:
        try:
            weakref.finalize(part, _keys.pop, at, None)
            kept = None
        except TypeError:  # no weak references: keep it, so that its id is not reused
            kept = part
        _keys[at] = kept, f"{type(part).__name__}-{os.urandom(8).hex()}"
    return _keys[at][1]
