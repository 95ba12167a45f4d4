"""Scorers of prompt and answer as texts: by a function or by any LangChain Runnable."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

from w2s_chains.backend.remote.langchain_models import model_error
from w2s_chains.backend.remote.threads import ThreadCall, Threads, settle
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Scorer
from w2s_chains.errors import ConfigError, ScorerError, brief
from w2s_chains.scorers.config import ScorerConfig
from w2s_chains.values import as_items, as_real


class RememberingScorer(Scorer):
    """A scorer that scores every hypothesis once and forgets it when the search does."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Hypothesis, float] = WeakKeyDictionary()

    def score(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        missing = list(dict.fromkeys(h for h in hypotheses if h not in self._known))
        failed: Exception | None = None
        for hypothesis, value in zip(missing, self._values(missing), strict=True):
            if isinstance(value, Exception):
                failed = failed or value
            else:
                self._known[hypothesis] = value
        if failed is not None:
            raise failed
        return [self._known[h] for h in hypotheses]

    @abstractmethod
    def _values(self, hypotheses: Sequence[Hypothesis]) -> Sequence[float | Exception]:
        """Return the score of each, or an error that concerns only that one."""


class CallableScorer(RememberingScorer):
    """Score with a function ``(prompts, responses) -> floats``; higher is better.

    The function is called once per step for all partial answers of all searches that run
    together. It gets chat prompts as plain text.
    """

    def __init__(
        self,
        function: Callable[[list[str], list[str]], Sequence[float]],
        *,
        spec: ScorerConfig | None = None,
    ) -> None:
        """Make a scorer.

        Args:
            function: The function to call.
            spec: The config that this scorer was built from, if an installed package built it.

        Raises:
            ConfigError: ``function`` is not callable.
        """
        super().__init__()
        if not callable(function):
            raise ConfigError(
                f"a CallableScorer needs a function (prompts, responses) -> floats, not "
                f"{function!r}"
            )
        self.function = function
        self.spec = spec

    def _values(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        if not hypotheses:
            return []
        name = getattr(self.function, "__name__", type(self.function).__name__)
        texts = [h.response for h in hypotheses]
        function = cast("Callable[..., object]", self.function)
        found = function([h.prompt.plain_text for h in hypotheses], list(texts))
        if len(texts) == 1 and type(found) in (int, float):
            found = [found]
        source, form = f"the function {name}", "{} scores for {} responses"
        values = as_items(found, len(texts), source, form)
        return [
            as_number(value, source, h, text=False)
            for value, h in zip(values, hypotheses, strict=True)
        ]


class RunnableScorer(RememberingScorer):
    """Score with any LangChain Runnable, such as a model that judges; higher is better.

    The Runnable gets ``{"prompt": ..., "response": ...}`` (chat prompts as plain text) and must
    return a number, or a text or message that holds only a number. If it fails on a response, that
    response is retried once by itself; the others keep their scores. While models of LangChain
    judge (chains of prompts, models and parsers), other searches go on; a function of yours may use
    the models of this process, so the engine waits for it. A Runnable with a ``batch`` of its own,
    such as a local model, gets all responses of a step at once, if there is no ``timeout``, which
    is that of one response.

    Examples:
        >>> judge = PromptTemplate.from_template("Grade from 0 to 9: {response}") | model
        >>> scorer = RunnableScorer(judge, max_concurrency=16)
    """

    def __init__(
        self,
        runnable: Any,
        *,
        max_concurrency: int = 8,
        timeout: float | None = None,
        spec: ScorerConfig | None = None,
    ) -> None:
        """Make a scorer.

        Args:
            runnable: The Runnable to call.
            max_concurrency: The most requests to send at once.
            timeout: The most seconds for one response. After that the search fails, and the call
                is abandoned; None for no limit.
            spec: The config that this scorer was built from, if an installed package built it.

        Raises:
            ConfigError: ``runnable`` is not a Runnable, ``max_concurrency`` is less than 1, or
                ``timeout`` is not more than 0.
        """
        super().__init__()
        if isinstance(runnable, type) or not callable(getattr(runnable, "batch", None)):
            raise ConfigError(
                f"a RunnableScorer needs a LangChain Runnable, not {runnable!r}; wrap a function "
                "of one text in RunnableLambda, or use CallableScorer for a function of many"
            )
        if max_concurrency < 1:
            raise ConfigError(f"max_concurrency is {max_concurrency}; it must be at least 1")
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout is {timeout}; it must be more than 0 seconds")
        self.runnable = runnable
        self.max_concurrency = max_concurrency
        self.timeout = timeout
        self.spec = spec
        self._threads = Threads(max_concurrency, math.inf if timeout is None else timeout)

    @property
    def _name(self) -> str:
        return f"the Runnable {self.runnable.get_name()}"

    def _values(self, hypotheses: Sequence[Hypothesis]) -> list[float | Exception]:
        asks = [{"prompt": h.prompt.plain_text, "response": h.response} for h in hypotheses]
        config = {"max_concurrency": self.max_concurrency}
        if asks and self.timeout is None and _batches(self.runnable):
            every = partial(self.runnable.batch, asks, config, return_exceptions=True)
            [found] = self._all([self._threads.start(every)])
            if isinstance(found, BaseException):
                found = [found] * len(asks)
            found = as_items(found, len(asks), self._name, "{} scores for {} responses")
        else:
            invoke = self.runnable.invoke
            found = self._all([self._threads.start(partial(invoke, ask, config)) for ask in asks])
        return [self._value(one, h) for one, h in zip(found, hypotheses, strict=True)]

    def _all(self, calls: Sequence[ThreadCall[Any]]) -> list[Any]:
        """Return the results, or what each has raised."""
        late = ScorerError(
            f"{self._name} gave no score within {self.timeout} seconds; raise timeout, or give the "
            "model itself a shorter one with retries"
        )
        try:
            settle(calls, release=self.spec is not None or _only_waits(self.runnable))
            futures = [call.future for call in calls]
            return [(f.exception() or f.result()) if f.done() else late for f in futures]
        finally:
            for call in calls:
                call.abandon()

    def _value(self, found: Any, hypothesis: Hypothesis) -> float | Exception:
        if isinstance(found, BaseException):
            return model_error(found, self.runnable, self._name, ScorerError, self.spec)
        try:
            return as_number(getattr(found, "content", found), self._name, hypothesis)
        except ScorerError as error:
            return error.with_traceback(None)  # it would keep the reply, however long


def _inside(runnable: Any) -> list[Any]:
    """Return the Runnables that a chain or a binding consists of."""
    inside: Any = getattr(runnable, "steps", None) or getattr(runnable, "bound", None) or []
    return [*inside] if isinstance(inside, list) else [inside]


def _only_waits(runnable: Any) -> bool:
    """Return whether a Runnable consists of LangChain's prompts, models and parsers alone.

    Anything else may use models of this process, which belong to one thread at a time.
    """
    if inside := _inside(runnable):
        return all(map(_only_waits, inside))
    kinds = {"BaseChatModel", "BaseLLM", "BasePromptTemplate", "BaseOutputParser"}
    names = {(base.__module__.partition(".")[0], base.__name__) for base in type(runnable).__mro__}
    foreign = all(package != "w2s_chains" for package, _ in names)
    return foreign and any(package == "langchain_core" and name in kinds for package, name in names)


def _batches(runnable: Any) -> bool:
    """Return whether a Runnable has a way of its own to read many inputs, as local models have."""
    if inside := _inside(runnable):
        return any(map(_batches, inside))
    owners = [base.__name__ for base in type(runnable).__mro__ if "batch" in vars(base)]
    return owners != ["Runnable"]


def as_number(value: Any, source: str, hypothesis: Hypothesis, text: bool = True) -> float:
    """Convert a score, given as a number or, if ``text``, as text, to a finite float.

    Raises:
        ScorerError: ``value`` is not a finite number.
    """
    number = as_real(value)
    if number is None and text and isinstance(value, str):
        with suppress(ValueError):
            number = float(value)
    if number is not None and math.isfinite(number):
        return number
    raise ScorerError(
        f"{source} gave {brief(repr(value))} for the response {hypothesis.response!r}; a score "
        "must be a finite number: ask for nothing else, or end with a parser that makes one of it"
    )
