"""``Config`` and ``Plugin``, the bases of all config models, and readable errors for them.

A validation failure becomes one ``ConfigError`` with a line per fault: where it is, what is wrong
and which choices there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from typing import Any, Self, TypeGuard, TypeVar, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from w2s_chains.core.slots import Slot, is_mapping
from w2s_chains.errors import ConfigError, did_you_mean, shown
from w2s_chains.values import refuse_excess, strict

C = TypeVar("C", bound=BaseModel)

MOST_FAULTS = 20
"""The most faults that one message lists."""

Held = Slot[Any] | type[BaseModel]
"""What a field may hold: the classes of a slot, or one class."""

FindLine = Callable[[Sequence[str]], int | str | None]
"""Maps the path of a value to the line where it is written, or to the option that says it."""


class Checked(BaseModel):
    """Base of frozen values without unknown fields, whose numbers and booleans are no text.

    Raises:
        ConfigError: A field is misspelt, missing or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __init__(self, **fields: Any) -> None:
        with config_errors(type(self), fields, type(self).__name__):
            super().__init__(**fields)

    def __setattr__(self, name: str, value: Any) -> None:
        with config_errors(type(self), {name: value}, type(self).__name__):
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        with config_errors(type(self), {}, type(self).__name__):
            super().__delattr__(name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return strict(handler(source))

    # Stops pydantic from calling this for nested values, whose errors it collects itself.
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]


class Config(Checked):
    """Base of all settings written in YAML or Python; raises like ``Checked``."""

    def for_chat(self) -> Self:
        """Return this config for a chat model, whose models use their chat templates if any.

        An explicit ``chat`` wins, and a config that reads no prompt is returned unchanged.
        """
        return self

    def written(self, chat: bool = False) -> dict[str, Any]:
        """Return this config as plain values for a file, without values equal to the defaults.

        Args:
            chat: Whether it is for a chat model, which has another default for ``chat``.
        """
        return self.model_dump(exclude_defaults=True, context={"chat": chat})


class Plugin(Config):
    """Base of parts that are their own config: frozen pydantic models with a literal ``type``.

    A config selects the part by its ``type``.
    """

    type: Any

    @model_serializer(mode="wrap")
    def _with_type(self, others: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"type": self.type, **others(self)}  # even if a dump leaves out defaults

    def written(self, chat: bool = False) -> dict[str, Any]:
        """Return every value, because other packages may change their defaults."""
        return self.model_dump(mode="json")


@contextmanager
def config_errors(
    model: type[BaseModel],
    values: Mapping[str, Any],
    source: str = "",
    line_of: FindLine | None = None,
) -> Generator[None]:
    """Turn pydantic's validation error about ``values`` into one ConfigError.

    Args:
        model: The model that validates ``values``.
        values: The values as the user wrote them.
        source: Where they come from: a file, or the name of the class or function called.
        line_of: Finds the line of a value, if ``values`` come from a file.

    Raises:
        ConfigError: Instead of pydantic's ValidationError; and if ``values`` are nested too deeply,
            or stand for too much by sharing parts.
    """
    refuse_excess(values, source)
    try:
        yield
    except ValidationError as error:
        faults: dict[tuple[int, str, str], list[str]] = {}  # options after all lines
        causes = _causes(error)
        for fault in causes[:MOST_FAULTS]:
            path = _path(fault, values)
            place = line_of(path) if line_of is not None else None
            line = place if isinstance(place, int) else 0 if place is None else sys.maxsize
            said = place if isinstance(place, str) else source + (f":{place}" if place else "")
            where = ": ".join(filter(None, [said, ".".join(path)]))
            told = faults.setdefault((line, where, _given(fault)), [])
            message = _message(fault, path, values, model)
            told += [] if message in told else [message]
        ordered = sorted(faults.items(), key=lambda item: item[0][0])
        lines = [f"{where}: {', or: '.join(told)}{given}" for (_, where, given), told in ordered]
        if (more := len(causes) - MOST_FAULTS) > 0:
            lines.append(f"{source or model.__name__}: and {more:,} more faults")
        raise ConfigError("\n".join(lines)) from error


def built(slot: Slot[C], value: Any, context: Any = None) -> C:
    """Build the object for a slot from a value outside any config.

    Args:
        slot: The slot, that is, the kind of part.
        value: An object, a mapping or a string; see ``Slot.build``.
        context: Passed to pydantic's validation.

    Raises:
        ConfigError: The type is unknown, or a field is misspelt or out of range.
    """
    values: Mapping[str, Any] = value if is_mapping(value) else {}
    with config_errors(slot.class_of(values) if values else slot.base, values, slot.kind):
        return slot.build(value, context)


def _causes(error: ValidationError) -> list[Any]:
    """Return all faults, except lists that are too short only because an item is faulty."""
    faults = error.errors(include_url=False)
    faulty = {fault["loc"][:at] for fault in faults for at in range(len(fault["loc"]))}
    return [f for f in faults if f["type"] != "too_short" or f["loc"] not in faulty]


def _path(fault: Any, values: Mapping[str, Any]) -> list[str]:
    """Return the path of a fault in the user's values, without pydantic's union branches."""
    node: Any = values
    path: list[str] = []
    for i, step in enumerate(fault["loc"]):
        last = i + 1 == len(fault["loc"])
        if (is_mapping(node) and step in node) or (_is_list(node) and step in range(len(node))):
            node = node[step]
        elif not (last and fault["type"] in ("missing", "extra_forbidden")):
            continue
        path.append(str(step)[:200])
    return path


def _message(
    fault: Any, path: Sequence[str], values: Mapping[str, Any], model: type[BaseModel]
) -> str:
    if fault["type"] == "extra_forbidden":
        return f"unknown field{did_you_mean(path[-1], _choices(path[:-1], values, model))}"
    if fault["type"] == "missing":
        return "this field is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "is_instance_of":
        message += "; give a name, a mapping, or an object that is ready"
    if fault["type"] == "string_type" and isinstance(fault["input"], int | float | date):
        message += "; if it is meant as text, put it in quotes"
    if fault["type"] == "frozen_instance":
        message = "a config never changes; make another with model_copy(update={...})"
    return message


def _given(fault: Any) -> str:
    """Return the faulty value for the message, or nothing if the message suffices."""
    telling = fault["type"] in ("extra_forbidden", "missing", "value_error", "frozen_instance")
    return (
        "" if telling or isinstance(fault["input"], Mapping) else f" (got {shown(fault['input'])})"
    )


def _choices(
    path: Sequence[str], values: Mapping[str, Any], model: type[BaseModel]
) -> Iterable[str]:
    """Return the names of the fields allowed in the mapping at ``path``."""
    node: Any = values
    found: list[Held] = [model]
    for step in path:
        found = held_at(found, node, step)
        node = _inside(node, step)
    return class_at(found, node).model_fields


def held_at(found: list[Held], node: Any, step: str) -> list[Held]:
    """Return what a value may be that stands at ``step`` of a mapping or a list.

    Args:
        found: What the mapping or the list may be.
        node: What it is.
        step: The name of a field; a key or an index leaves ``found`` as it is.
    """
    field = field_called(class_at(found, node), step)
    return (field and list(_slots(field[1]))) or found


def field_called(cls: type[BaseModel], name: str) -> tuple[str, FieldInfo] | None:
    """Return the field called ``name``, now or formerly, and its name."""
    fields = cls.model_fields.items()
    return next((pair for pair in fields if name == pair[0] or name in aliases(pair[1])), None)


def aliases(field: FieldInfo) -> list[str]:
    """Return the names under which a field may be written, the current one first."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]


def class_at(found: Sequence[Held], node: Any) -> type[BaseModel]:
    """Return the class that ``node`` is meant for: the one with the most of its keys."""
    classes = [_class_in(one, node) if isinstance(one, Slot) else one for one in found]
    keys: set[Any] = set(node) if is_mapping(node) else set()
    return max(classes, key=lambda cls: len(keys & cls.model_fields.keys()))


def _class_in(slot: Slot[Any], node: Any) -> type[BaseModel]:
    try:
        return slot.class_of(slot.coerce(node))
    except ConfigError:  # the wrong type is reported separately
        return slot.base


def _inside(node: Any, step: str) -> Any:
    if is_mapping(node):
        return node[step]
    return node[int(step)] if _is_list(node) else getattr(node, step)


def _is_list(node: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(node, list | tuple)


def _slots(field: FieldInfo) -> Iterator[Held]:
    """Yield the slots and pydantic models that a field may hold."""
    slots: list[Slot[Any]] = [one for one in field.metadata if isinstance(one, Slot)]
    yield from slots or _held(field.annotation)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _held(annotation: Any) -> Iterator[Held]:
    if isinstance(annotation, Slot) or _is_model(annotation):
        yield annotation
    else:
        parts = get_args(annotation)
        yield from [part for part in parts if isinstance(part, Slot)] or (
            held for part in parts for held in _held(part)
        )
