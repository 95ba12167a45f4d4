"""The errors of this package, all of them ``W2SError``, and helpers for their messages.

Each message names the value, the limit and the remedy.
"""

from __future__ import annotations

import difflib
import reprlib
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


class GenerationConfigWarning(UserWarning):
    """A model's generation config sets options that change nothing here."""


class ConstraintError(W2SError, ValueError):
    """A constraint on the answer cannot be satisfied, or not within the tokens allowed."""


class ProposerError(W2SError, RuntimeError):
    """A proposer broke its contract, for example by returning too few children."""


class ServerError(W2SError, RuntimeError):
    """A model server did not answer, refused the request, or sent an invalid answer.

    Attributes:
        status: The HTTP status, if there was one.
        passing: Whether the same call may succeed later: the server was not reached, or busy.
    """

    def __init__(self, message: str, status: int | None = None, *, passing: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.passing = passing


class ScorerError(W2SError, RuntimeError):
    """A scorer returned the wrong number of scores, or a score that is not a number."""


class StrategyError(W2SError, RuntimeError):
    """A search strategy broke its contract, for example by taking back committed text."""


class OutOfMemoryError(W2SError, MemoryError):
    """Even a batch of one row does not fit into memory."""


class CancelledError(W2SError):
    """The search was cancelled by its caller."""


def ordinary(error: BaseException) -> Exception:
    """Return an error that no loop, task or process takes for its own end.

    ``StopIteration`` would end the loop in which it is raised without a word, ``SystemExit`` the
    thread, and ``asyncio.CancelledError`` would look like a cancelled task.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    wrapped = W2SError(f"a part of the search raised {error!r} instead of an error")
    wrapped.__cause__ = error
    return wrapped


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 4, 300, 300, 60


def shown(value: object) -> str:
    """Return a value for a message: its ``repr``, of at most a few lines."""
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python refuses to write them out
        return f"<an integer of {value.bit_length():,} bits>"
    try:
        text = _SHORT.repr(value)
    except Exception:
        text = f"<a {type(value).__name__}>"
    return text if len(text) <= 400 else f"{text[:400]}..."


def brief(error: BaseException | str) -> str:
    """Shorten another library's message to one line."""
    begin = str(error)[:10_000]  # the rest would only take time, seconds of it for a long reply
    return textwrap.shorten(begin, 300, placeholder=" ...").rstrip(".")


MOST_CHOICES = 40
"""The most choices that a message lists."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return the end of an error message: the closest choice, and the choices, at most 40."""
    known = sorted(choice for choice in set(choices) if len(choice) <= 200)
    close = difflib.get_close_matches(name[:200], known[:2000], n=1)
    more = f" and {len(known) - MOST_CHOICES:,} more" if len(known) > MOST_CHOICES else ""
    listed = ", ".join(known[:MOST_CHOICES]) + more
    return (f"; did you mean {close[0]!r}?" if close else "") + f" (choices: {listed})"
