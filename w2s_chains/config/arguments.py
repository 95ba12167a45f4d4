"""What the constructors of a guided model take, for type checkers and editors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict

from pydantic import BaseModel

from w2s_chains.backend.loading.config import Model
from w2s_chains.core.asks import Expand
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Proposer, Scorer
from w2s_chains.core.sampling import Constraint
from w2s_chains.engine.scheduler import Engine
from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.guides.config import Guides
from w2s_chains.proposers.config import ProposerConfig
from w2s_chains.scorers.config import ScorerConfig
from w2s_chains.search import SearchStrategy


class Proposing(Protocol):
    """A proposer that is not a subclass of ``Proposer``."""

    def propose(self, requests: Sequence[Expand], /) -> Sequence[list[Hypothesis] | Exception]: ...


class Comparing(Protocol):
    """A guide pair that is not a subclass of ``BaseGuidePair``."""

    def loglikelihoods(self, hypotheses: Sequence[Hypothesis], /) -> list[tuple[float, float]]: ...


class Scoring(Protocol):
    """A scorer that is not a subclass of ``Scorer``."""

    def score(self, hypotheses: Sequence[Hypothesis], /) -> list[float]: ...


ProposerLike = (
    str | os.PathLike[str] | Mapping[str, Any] | Model | ProposerConfig | Proposer | Proposing
)
"""The name of a model, a config or a mapping of its fields, or a proposer that is ready."""

GuidesLike = str | Mapping[str, Any] | Guides | BaseGuidePair | Comparing
"""The name of a preset, ``Guides`` or a mapping of their fields, or a pair that is ready."""

ScorerLike = str | Mapping[str, Any] | ScorerConfig | Scorer | Scoring
"""A type, a config or a mapping of its fields, or a scorer that is ready."""

StrategyLike = str | Mapping[str, Any] | SearchStrategy
"""A type, a mapping with a ``type``, or a strategy."""


class GuidedArguments(TypedDict, total=False):
    """Keyword arguments of every guided model but the proposer; see ``GuidedModel``."""

    guides: GuidesLike | None
    scorer: ScorerLike | None
    strategy: StrategyLike
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int | None
    min_p: float
    repetition_penalty: float
    stop: str | Sequence[str] | None
    seed: int | None
    n: int
    constraint: Constraint | None
    progress: bool


class Arguments(GuidedArguments, total=False):
    """Keyword arguments of a guided model but the proposer: its own, and LangChain's."""

    engine: Engine
    name: str | None
    cache: Any
    verbose: bool
    callbacks: Any
    tags: list[str] | None
    metadata: dict[str, Any] | None
    custom_get_token_ids: Callable[[str], list[int]] | None


class ChatArguments(Arguments, total=False):
    """Keyword arguments of a chat model but the proposer; see ``ChatW2S``."""

    tools: Sequence[Any]
    tool_choice: Any
    parallel_tool_calls: bool
    response_format: Mapping[str, Any] | None
    streaming: bool | None
    disable_streaming: bool | Literal["tool_calling"]
    output_version: str | None
    profile: Any
    rate_limiter: Any


class GivenArguments(Arguments, total=False):
    """Keyword arguments that win over those of a config."""

    proposer: ProposerLike


def known_arguments(arguments: dict[str, Any], cls: type[BaseModel]) -> dict[str, Any]:
    """Arguments of ``cls`` under their names of today.

    Raises:
        ConfigError: One is unknown, or given under its old and its new name.
    """
    for name in arguments.keys() - cls.model_fields.keys() - {"guide"}:
        hint = did_you_mean(name, cls.model_fields)
        raise ConfigError(f"{cls.__name__}: unknown field {shown(name)}{hint}")
    if "guide" not in arguments:
        return arguments
    if "guides" in arguments:
        raise ConfigError("guide is the old name of guides, and both are given; leave out guide")
    warnings.warn("guide is now called guides", DeprecationWarning, stacklevel=4)
    return {("guides" if name == "guide" else name): value for name, value in arguments.items()}
