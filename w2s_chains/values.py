"""Checks of the values that users and their parts give: numbers, scores, and how much is nested."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from contextlib import suppress
from typing import Any, LiteralString, TypeGuard, cast

from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from w2s_chains.errors import ConfigError, ScorerError, shown

MAX_DEPTH = 100
"""The most mappings and lists inside one another."""

MAX_SHARED = 1_000_000
"""The most values that a mapping may gain by parts which stand in several places of it."""

_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")
"""A float that YAML 1.1 reads as text, because it wants a point and a sign."""


def strict(schema: CoreSchema) -> CoreSchema:
    """Make every integer, float and boolean in a pydantic schema refuse text, and each other.

    An integer is still a float, a float without fraction an integer, and the numbers of other
    libraries are numbers.
    """
    return cast("CoreSchema", _strict(schema))


def _strict(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return [_strict(item) for item in cast("Sequence[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    own = cast("dict[str, Any]", schema)
    kind = own.get("type")
    if not isinstance(kind, str):  # the fields of a model by their names
        return {name: _strict(value) for name, value in own.items()}
    if kind == "function-before" and own["function"]["function"] in _CHECKS.values():
        return own
    if kind in _CHECKS:
        return core_schema.no_info_before_validator_function(_CHECKS[kind], cast("CoreSchema", own))
    return {name: _strict(value) if name in _INNER else value for name, value in own.items()}


_INNER = frozenset(
    (
        *("schema", "fields", "items_schema", "keys_schema", "values_schema", "choices", "steps"),
        *("definitions", "json_schema", "python_schema", "lax_schema", "strict_schema"),
    )
)
"""Where a schema holds further schemas."""


def whole_number(value: Any) -> Any:
    """Refuse what pydantic would take for an integer: text, true and false."""
    if _is_text(value) or _is_bool(value):
        raise PydanticCustomError("int_type", "Input should be a valid integer" + _quoted(value))
    return value


def number(value: Any) -> Any:
    """Refuse what pydantic would take for a float: text, true and false."""
    if _is_bool(value) or (_is_text(value) and not _is_exponent(value)):
        raise PydanticCustomError("float_type", "Input should be a valid number" + _quoted(value))
    return value


def truth(value: Any) -> Any:
    """Refuse what pydantic would take for a boolean: text, 0 and 1."""
    if not _is_bool(value):
        raise PydanticCustomError("bool_type", "Input should be a valid boolean" + _quoted(value))
    return value


_CHECKS = {"int": whole_number, "float": number, "bool": truth}


def _is_text(value: object) -> TypeGuard[str | bytes]:
    return isinstance(value, str | bytes | bytearray)


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's too


def _is_exponent(value: object) -> bool:
    return isinstance(value, str) and len(value) < 100 and bool(_EXPONENT.fullmatch(value))


def _quoted(value: object) -> LiteralString:
    return ", without quotes" if _is_text(value) else ""


def is_text(value: object) -> TypeGuard[str]:
    """Return whether a value is text of whole characters, with no half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_excess(values: object, source: str = "") -> None:
    """Refuse values that are nested too deeply, or that contain one another again and again.

    Args:
        values: Mappings and lists in one another; other objects are not looked into.
        source: Where they come from, for messages.

    Raises:
        ConfigError: More than ``MAX_DEPTH`` are in one another; one contains itself; or shared
            parts (YAML's aliases) make more than ``MAX_SHARED`` values of few.
    """
    sizes: dict[int, int] = {}
    where = f"{source}: " if source else ""

    def size(value: object, depth: int) -> int:
        items = _items(value)
        if items is None:
            return 1
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"{where}more than {MAX_DEPTH} mappings and lists are inside one another, the most "
                "that is read"
            )
        at = id(value)
        if at not in sizes:
            sizes[at] = 0  # being counted
            sizes[at] = 1 + sum(size(item, depth + 1) for item in items)
            return sizes[at]
        if not sizes[at]:
            raise ConfigError(f"{where}a mapping or list contains itself; write it out")
        shared[0] += sizes[at]
        if shared[0] > MAX_SHARED:
            raise ConfigError(
                f"{where}parts that stand in several places (aliases, as *name in YAML) make more "
                f"than {MAX_SHARED:,} values, the most that is read; write out what is needed"
            )
        return sizes[at]

    shared = [0]
    size(values, 1)


def _items(value: object) -> Iterable[object] | None:
    if isinstance(value, dict):
        return cast("dict[object, object]", value).values()
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else None


FORM = "{} scores for {} hypotheses"
"""How a message counts the scores and the texts."""


def as_scores(found: object, texts: Sequence[object], source: str, form: str = FORM) -> list[float]:
    """Check what a scorer, reward or value function returned for some texts.

    Any sequence of real numbers is right: a list, an array or tensor of one dimension, a generator.
    What only looks like one is not: text, a mapping or a set, whose order says nothing.

    Args:
        found: What it returned.
        texts: What it was asked about, in order: texts, or answers that have a ``response``.
        source: Who returned it, for messages: "the scorer Length".
        form: How a message counts the scores and the texts.

    Returns:
        One float per text, which may be infinite.

    Raises:
        ScorerError: It is no sequence, its length is wrong, or an item is not a number.
    """
    items = as_items(found, len(texts), source, form)
    return [as_score(item, text, source) for item, text in zip(items, texts, strict=True)]


def as_token_scores(found: object, texts: Sequence[object], source: str) -> list[tuple[float, ...]]:
    """Check numbers for each token of some texts, as ``as_scores`` checks one for each text."""
    items = as_items(found, len(texts), source, "numbers for the tokens of {} texts of {}")
    return [
        tuple(
            as_score(value, text, source)
            for value in as_items(
                item, len(item) if isinstance(item, Sized) else -1, source, "no number for a token"
            )
        )
        for item, text in zip(items, texts, strict=True)
    ]


def as_items(found: object, count: int, source: str, form: str = FORM) -> list[object]:
    """Check that there is one item for each text; see ``as_scores``."""
    items: list[object] | None = None
    if isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping | Set):
        with suppress(TypeError):  # an array without dimensions
            items = list(cast("Iterable[object]", found))
    if items is None or len(items) != count:
        told = form.format(1 if items is None else len(items), count)
        what = f" ({shown(cast('object', found))})" if items is None else ""
        raise ScorerError(f"{source} returned {told}{what}; it must return one for each, in order")
    return items


def as_score(value: object, text: object, source: str) -> float:
    """Check one score of a text, or of an answer that has a ``response``.

    Raises:
        ScorerError: It is not a real number.
    """
    score = as_real(value)
    if score is None:
        told = "NaN" if isinstance(value, float) else shown(value)
        said: object = getattr(text, "response", text)
        raise ScorerError(
            f"{source} returned {told} for the text {shown(said)}; a score must be a number"
        )
    return score


def as_real(value: object) -> float | None:
    """Return a number of any library as a float; None for text, NaN and all else."""
    try:
        score = math.nan if _is_text(value) else float(cast("Any", value))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises RuntimeErrors
        return None
    return None if math.isnan(score) else score
