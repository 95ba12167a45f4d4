"""``GuidedModel``: the base of ``W2SLLM`` and ``ChatW2S``, with all their fields."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack, cast

from langchain_core.callbacks.manager import BaseRunManager
from langchain_core.language_models import BaseLanguageModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.runnables import RunnableConfig
from pydantic import ConfigDict, Field, model_validator

from w2s_chains.config.arguments import Arguments, GivenArguments, ProposerLike, known_arguments
from w2s_chains.config.deprecated import OldWays
from w2s_chains.config.files import describe, load_config, write_config
from w2s_chains.config.sections import (
    GenerationConfig,
    ModelType,
    Unloaded,
    build_parts,
    check_effort,
    is_described,
    pair_of,
)
from w2s_chains.core.configs import config_errors
from w2s_chains.core.contracts import BaseGuidePair, key_of
from w2s_chains.core.parts import Proposer, Scorer
from w2s_chains.core.prompts import Prompt
from w2s_chains.core.sampling import (
    Branches,
    Constraint,
    MaxTokens,
    MinP,
    RepetitionPenalty,
    SamplingParams,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from w2s_chains.engine.job import Job
from w2s_chains.engine.scheduler import Engine, shared_engine
from w2s_chains.engine.waiting import Together
from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.langchain.generation import (
    Searches,
    calls_of,
    checked_jobs,
    counting_tokenizer,
    progress_bar,
    tokens_read,
)
from w2s_chains.langchain.tracing import VERSIONS, Traceable
from w2s_chains.search import AnyStrategy, ChunkBeamSearch


class GuidedModel(OldWays, Traceable, BaseLanguageModel[Any]):
    """A large frozen model, steered by a small tuned and a small untuned one.

    Attributes:
        proposer: The large model: its name (hub id, local folder, GGUF file, ``embedded:NAME``), a
            ``Model`` or another config, a mapping, or a ready ``Proposer``.
        guides: The tuned and the untuned guide: ``Guides``, the name of a preset, a mapping, or a
            ready ``GuidePair``; by default the scorer's guides.
        scorer: The value of partial answers: a config, a mapping, a type, or a ready ``Scorer``; by
            default the log-ratio of the guides. None for strategies without a scorer.
        strategy: How to search: a strategy, a mapping with a ``type``, or a type.
        n: Answers per prompt, from independent searches; the first equals the answer of ``n=1``.
        constraint: The form that answers must have, such as ``Constraint.regex("yes|no")``.
        progress: Show a progress bar while a batch runs.
        engine: The engine that runs the searches; by default one is shared by the whole process.

    The other fields are those of ``SamplingParams``.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", validate_assignment=True
    )
    config_type: ClassVar[ModelType]
    call_fields: ClassVar[frozenset[str]] = frozenset(
        {*SamplingParams.model_fields, "strategy", "n", "constraint", "progress"}
    )
    """The fields that a single call may override."""

    proposer: Proposer = Field(exclude=True, repr=False)
    scorer: Scorer | None = Field(default=None, exclude=True, repr=False)
    guides: BaseGuidePair | None = Field(default=None, exclude=True, repr=False)
    engine: Engine = Field(default_factory=shared_engine, exclude=True, repr=False)
    strategy: AnyStrategy = Field(default_factory=ChunkBeamSearch)
    max_tokens: MaxTokens = 256
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    top_k: TopK | None = None
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = ()
    seed: Seed | None = None
    n: Branches = 1
    constraint: Constraint | None = None
    progress: bool = False

    def __init__(self, proposer: ProposerLike | None = None, **fields: Unpack[Arguments]) -> None:
        """Load the named models and assemble the parts; see the attributes of this class.

        Raises:
            ConfigError: A field is misspelt or out of range, or a part is missing.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model cannot do what a search needs.
        """
        cls = type(self)
        given = {} if proposer is None else {"proposer": proposer}
        values = known_arguments({**given, **fields}, cls)
        with config_errors(cls, values, cls.__name__):
            if is_described(values):  # find errors in other fields before a model is loaded
                stands: dict[str, Any] = {"proposer": Unloaded(), "guides": None, "scorer": None}
                cls(**{**values, **stands})
            super().__init__(**build_parts(values, cls.config_type, cls.__name__))

    def __setattr__(self, name: str, value: Any) -> None:
        changed = self._followed({name: value})
        with config_errors(type(self), changed, type(self).__name__):
            for field in changed:
                super().__setattr__(field, changed[field])

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        return super().model_copy(update=self._followed(update or {}), deep=deep)

    def _followed(self, update: Mapping[str, Any]) -> dict[str, Any]:
        """Extend an update of the scorer to the guides, if they are the scorer's."""
        changed = dict(update)
        if "scorer" in changed and "guides" not in changed and self.guides is pair_of(self.scorer):
            changed["guides"] = pair_of(changed["scorer"])
        return changed

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield "model_name", self.model_name
        hidden = ("metadata", "profile")  # long, and the same for similar models
        yield from (pair for pair in super().__repr_args__() if pair[0] not in hidden)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy everything except the parts, which cannot be copied and never change."""
        return self.__copy__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ConfigError(
            f"a {type(self).__name__} holds models and cannot be pickled; send to_config() to the "
            "other process, and call from_config() there"
        )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        check_effort(self.strategy, self.n)
        return self

    @model_validator(mode="after")
    def _set_w2s_versions(self) -> Self:
        for name, value in VERSIONS.items():
            self._add_version(name, value)
        return self

    # Configs.

    @classmethod
    def from_config(
        cls, config: str | Path | Mapping[str, Any], **fields: Unpack[GivenArguments]
    ) -> Self:
        """Read a YAML file, or a mapping of the same form.

        Args:
            config: Sections ``proposer``, ``guides``, ``scorer``, ``strategy``, ``generation``; a
                ``type`` must match this class.
            **fields: Arguments of this class, which override the config; parts given here are not
                loaded.

        Raises:
            ConfigError: Broken YAML, an unknown strategy, a misspelt field or a value out of range;
                the message gives file and line.
            ModelNotFoundError: A model cannot be found.
            UnsupportedModelError: A model cannot do what a search needs.
        """
        found = load_config(config, cls.config_type)
        if found.type != cls.config_type:
            raise ConfigError(
                f"the config is of type {found.type!r}, but a {cls.__name__} is of type "
                f"{cls.config_type!r}; read it with w2s_chains.load, or change its type"
            )
        given = known_arguments({**fields}, cls)
        return cls(**{**found.fields(), **found.unscored(given), **given})

    def to_config(self, path: str | Path | None = None) -> dict[str, Any]:
        """Return the config as a mapping for ``from_config``, and write it to a YAML file.

        Args:
            path: The file to write; None writes no file.

        Raises:
            ConfigError: A part was built by hand, so no config can describe it, or the file cannot
                be written.
        """
        generation = GenerationConfig(**self._sampling().model_dump(), n=self.n)
        parts = (self.proposer, self.guides, self.scorer, self.strategy)
        return write_config(describe(*parts, generation, self.config_type), path)

    # Properties that LangChain reads.

    @property
    def _llm_type(self) -> str:
        return "w2s"

    @property
    def model_name(self) -> str:
        """The name of the large model, for display."""
        spec = Proposer.of(self.proposer).spec
        return str(getattr(spec, "model", type(self.proposer).__name__))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything an answer depends on, as the key of LangChain's caches."""
        return {
            "model_name": self.model_name,
            "proposer": key_of(self.proposer),
            "scorer": key_of(self.scorer),
            "guides": key_of(self.guides),
            "strategy": {"class": repr(type(self.strategy)), **self.strategy.model_dump()},
            **self._sampling().model_dump(),
            "n": self.n,
            "constraint": None if self.constraint is None else repr(self.constraint),
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """Return what LangSmith shows with a run: model, strategy and sampling parameters."""
        known = {name: value for name, value in kwargs.items() if name in self.call_fields}
        model = self._overridden(stop, known)
        params = super()._get_ls_params(stop=list(model.stop) or None, **kwargs)
        guides = model.guides if model.scorer is None else model.scorer
        own = {
            "ls_model_name": params.get("ls_model_name", self.model_name),
            "ls_temperature": model.temperature,
            "ls_max_tokens": model.max_tokens,
            "w2s_strategy": model.strategy.model_dump(mode="json"),
            "w2s_guides": key_of(guides),
        }
        return cast("LangSmithParams", {**params, **own})

    def get_token_ids(self, text: str) -> list[int]:
        """Return the large model's token ids of a text, without its template.

        Raises:
            ConfigError: Its tokenizer is not available here, and ``custom_get_token_ids`` is not
                set.
        """
        if self.custom_get_token_ids is not None:
            return super().get_token_ids(text)
        return counting_tokenizer(self.proposer, self.model_name).encode(text)

    def _count(self, prompt: str | Prompt) -> int:
        """Return the tokens that the large model reads of a prompt, as usage counts them."""
        return tokens_read(self.proposer, prompt, self.model_name)

    # One call.

    def _overridden(self, stop: Sequence[str] | None, overrides: Mapping[str, Any]) -> Self:
        """Return this model with the validated arguments of one call; it shares all parts."""
        for name in overrides:
            if name not in self.call_fields:
                hint = did_you_mean(name, self.call_fields)
                raise ConfigError(f"unknown argument {shown(name)} of a call{hint}")
        changed = dict(overrides) if stop is None else {**overrides, "stop": stop}
        if not changed:
            return self
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        arguments: dict[str, Any] = {**fields, **changed}
        return type(self)(**arguments)

    def _sampling(self) -> SamplingParams:
        return SamplingParams(**{name: getattr(self, name) for name in SamplingParams.model_fields})

    def _constraint(self) -> Constraint | None:
        """Return the form that answers must have, if any."""
        return self.constraint

    def jobs(self, prompts: Sequence[str | Prompt]) -> list[Job]:
        """Return the searches that answer ``prompts``, for callers who run the engine themselves.

        There is one checked job per answer, ``n`` in a row for each prompt. Raises ConfigError or
        PromptError like a call.
        """
        job = partial(
            Job,
            strategy=self.strategy,
            proposer=self.proposer,
            scorer=self.scorer,
            guides=self.guides,
            sampling=self._sampling(),
            constraint=self._constraint(),
        )
        return checked_jobs(job, prompts, self.seed, self.n)

    # Searches of one call, of a stream, and of a batch of calls.

    def _searches(
        self, prompts: Sequence[str | Prompt], runs: Sequence[BaseRunManager], text: bool = False
    ) -> Searches:
        """Prepare the searches for ``prompts``; ``text`` also yields text as it is committed."""
        if text and self.n != 1:
            raise ConfigError(f"a stream gives one answer, but n is {self.n}; set n=1 or use batch")
        return Searches(self.engine, self.jobs(prompts), runs, text, self.progress and not text)

    def batch(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Run one ``invoke`` per input; ``return_exceptions`` isolates the ones that fail."""
        calls, limit = calls_of(self.invoke, inputs, config, kwargs)
        with self._together(len(calls), kwargs) as together:
            return together.in_threads(calls, limit or self.engine.max_live, return_exceptions)

    async def abatch(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Run one ``ainvoke`` per input; ``return_exceptions`` isolates the ones that fail."""
        calls, limit = calls_of(self.ainvoke, inputs, config, kwargs)
        with self._together(len(calls), kwargs) as together:
            return await together.in_tasks(calls, limit, return_exceptions)

    @contextmanager
    def _together(self, calls: int, overrides: Mapping[str, Any]) -> Generator[Together]:
        """Run a batch of calls with these overrides under one progress bar."""
        changed = {"max_tokens", "n", "strategy", "progress"} & overrides.keys()
        try:
            model = self._overridden(None, {name: overrides[name] for name in changed})
        except ConfigError:  # every call will raise it
            model = self.model_copy(update={"progress": False})
        tokens = calls * model.n * model.max_tokens
        with progress_bar(model.progress, tokens, model.strategy.type) as listener:
            yield Together(listener)
