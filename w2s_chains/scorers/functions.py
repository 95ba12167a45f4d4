"""Scorers of prompt and answer as texts: by a function or by any LangChain Runnable."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast
from weakref import WeakKeyDictionary

from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.parts import Scorer
from w2s_chains.errors import ConfigError, ScorerError
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
    response is retried once by itself; the others keep their scores.

    Examples:
        >>> judge = PromptTemplate.from_template("Grade from 0 to 9: {response}") | model
        >>> scorer = RunnableScorer(judge, max_concurrency=16)
    """

    def __init__(
        self, runnable: Any, *, max_concurrency: int = 8, spec: ScorerConfig | None = None
    ) -> None:
        """Make a scorer.

        Args:
            runnable: The Runnable to call.
            max_concurrency: The most requests to send at once.
            spec: The config that this scorer was built from, if an installed package built it.

        Raises:
            ConfigError: ``runnable`` is not a Runnable, or ``max_concurrency`` is less than 1.
        """
        super().__init__()
        if isinstance(runnable, type) or not callable(getattr(runnable, "batch", None)):
            raise ConfigError(
                f"a RunnableScorer needs a LangChain Runnable, not {runnable!r}; wrap a function "
                "of one text in RunnableLambda, or use CallableScorer for a function of many"
            )
        if max_concurrency < 1:
            raise ConfigError(f"max_concurrency is {max_concurrency}; it must be at least 1")
        self.runnable = runnable
        self.max_concurrency = max_concurrency
        self.spec = spec

    def _values(self, hypotheses: Sequence[Hypothesis]) -> list[float | Exception]:
        found = self.runnable.batch(
            [{"prompt": h.prompt.plain_text, "response": h.response} for h in hypotheses],
            {"max_concurrency": self.max_concurrency},
            return_exceptions=True,
        )
        return [self._value(one, h) for one, h in zip(found, hypotheses, strict=True)]

    def _value(self, found: Any, hypothesis: Hypothesis) -> float | Exception:
        if isinstance(found, Exception):
            return found
        try:
            name = f"the Runnable {self.runnable.get_name()}"
            return as_number(getattr(found, "content", found), name, hypothesis)
        except ScorerError as error:
            return error


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
        f"{source} gave {value!r} for the response {hypothesis.response!r}; a score must be a "
        "finite number: ask for nothing else, or end with a parser that makes one of it"
    )
