"""The errors of this package, all of them ``W2SError``, and helpers for their messages.

Each message names the value, the limit and the remedy.
"""

from __future__ import annotations

import difflib
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class W2SError(Exception):
    """Base of all errors raised by w2s_chains."""


class ConfigError(W2SError, ValueError):
    """A setting is missing, misspelt or out of range."""


class ModelNotFoundError(W2SError, OSError):
    """No model exists under a hub id, folder, GGUF file or embedded name."""


class UnsupportedModelError(W2SError, ValueError):
    """The model exists but lacks an ability that a search needs, such as branching its cache."""


class PromptError(W2SError, ValueError):
    """A prompt is too long for a model, or empty although the model needs a token to start."""


class RawPromptWarning(UserWarning):
    """A model that has a chat template, or may have one, reads prompts without it."""


class ConstraintError(W2SError, ValueError):
    """A constraint on the answer cannot be satisfied, or not within the tokens allowed."""


class ProposerError(W2SError, RuntimeError):
    """A proposer broke its contract, for example by returning too few children."""


class ServerError(W2SError, RuntimeError):
    """A model server did not answer, refused the request, or sent an invalid answer.

    Attributes:
        status: The HTTP status, if there was one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ScorerError(W2SError, RuntimeError):
    """A scorer returned the wrong number of scores, or a score that is not a number."""


class StrategyError(W2SError, RuntimeError):
    """A search strategy broke its contract, for example by taking back committed text."""


class OutOfMemoryError(W2SError, MemoryError):
    """Even a batch of one row does not fit into memory."""


class CancelledError(W2SError):
    """The search was cancelled by its caller."""


def brief(error: BaseException | str) -> str:
    """Shorten another library's message to one line."""
    return textwrap.shorten(str(error), 300, placeholder=" ...").rstrip(".")


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of an error message: the closest choice, and all choices."""
    choices = sorted(set(choices))
    close = difflib.get_close_matches(name, choices, n=1)
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (choices: {', '.join(choices)})"
