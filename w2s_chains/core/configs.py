"""What a user writes: frozen pydantic models, and ConfigErrors that say what is wrong with it.

``Config`` is the base of everything that a config or a constructor takes. A wrong value is one
``ConfigError`` with a line for each fault: where it is, what is wrong, what the choices are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeGuard, TypeVar, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.fields import FieldInfo

from w2s_chains.core.slots import Slot, is_mapping
from w2s_chains.errors import ConfigError, did_you_mean

C = TypeVar("C", bound=BaseModel)

FindLine = Callable[[Sequence[str]], int | None]
"""Takes the path of a value and returns the line where it is written."""


class Config(BaseModel):
    """Base of what a user writes, in YAML or in Python: frozen, and strict about its fields.

    Raises:
        ConfigError: A field is misspelt, missing or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __init__(self, **fields: Any) -> None:
        with config_errors(type(self), fields, type(self).__name__):
            super().__init__(**fields)

    # Tells pydantic not to call this for nested values, whose errors it collects by itself.
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    def for_chat(self) -> Self:
        """This config for a chat model: models use their chat template where they have one.

        Only where nothing else was said; a config that reads no prompt stays as it is.
        """
        return self

    def written(self, chat: bool = False) -> dict[str, Any]:
        """This config as plain values for a file: what differs from its defaults.

        Args:
            chat: Whether it is for a chat model, where ``chat`` has another default.
        """
        return self.model_dump(exclude_defaults=True, context={"chat": chat})


class Plugin(Config):
    """A part that is its own config: a frozen pydantic model with a literal ``type``.

    The ``type`` is the name under which a config asks for it.
    """

    type: Any

    @model_serializer(mode="wrap")
    def _with_type(self, others: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"type": self.type, **others(self)}  # whatever a dump leaves out

    def written(self, chat: bool = False) -> dict[str, Any]:
        """Everything: other packages may change their defaults."""
        return self.model_dump(mode="json")


@contextmanager
def config_errors(
    model: type[BaseModel],
    values: Mapping[str, Any],
    source: str = "",
    line_of: FindLine | None = None,
) -> Generator[None]:
    """Turn pydantic's errors about ``values`` into one ConfigError.

    Args:
        model: What ``values`` are validated as.
        values: What the user wrote.
        source: Where: a file, or the name of what was called.
        line_of: Finds the line of a value, where ``values`` come from a file.

    Raises:
        ConfigError: Instead of pydantic's ValidationError.
    """
    try:
        yield
    except ValidationError as error:
        faults: dict[tuple[int, str, str], list[str]] = {}
        for fault in _causes(error):
            path = _path(fault, values)
            line = (line_of(path) if line_of is not None else None) or 0
            where = ": ".join(filter(None, [source + (f":{line}" if line else ""), ".".join(path)]))
            told = faults.setdefault((line, where, _given(fault)), [])
            message = _message(fault, path, values, model)
            told += [] if message in told else [message]
        ordered = sorted(faults.items(), key=lambda item: item[0][0])
        lines = (f"{where}: {', or: '.join(told)}{given}" for (_, where, given), told in ordered)
        raise ConfigError("\n".join(lines)) from error


def built(slot: Slot[C], value: Any, context: Any = None) -> C:
    """The object for what a user wrote in a slot, outside of any config.

    Args:
        slot: What kind of part it is.
        value: An object, a mapping or a string; see ``Slot.build``.
        context: Passed on to pydantic's validation.

    Raises:
        ConfigError: There is no such type, or a field is misspelt or out of range.
    """
    values: Mapping[str, Any] = value if is_mapping(value) else {}
    with config_errors(slot.class_of(values) if values else slot.base, values, slot.kind):
        return slot.build(value, context)


def _causes(error: ValidationError) -> list[Any]:
    """All faults, except lists that are too short only because an item of theirs is faulty."""
    faults = error.errors(include_url=False)
    return [
        fault
        for fault in faults
        if fault["type"] != "too_short"
        or not any(other is not fault and _within(other["loc"], fault["loc"]) for other in faults)
    ]


def _within(loc: Sequence[Any], outer: Sequence[Any]) -> bool:
    return tuple(loc[: len(outer)]) == tuple(outer)


def _path(fault: Any, values: Mapping[str, Any]) -> list[str]:
    """Where the fault is in what the user wrote; pydantic also names the branches of unions."""
    node: Any = values
    path: list[str] = []
    for i, step in enumerate(fault["loc"]):
        last = i + 1 == len(fault["loc"])
        if (is_mapping(node) and step in node) or (_is_list(node) and step in range(len(node))):
            node = node[step]
        elif not (last and fault["type"] in ("missing", "extra_forbidden")):
            continue
        path.append(str(step))
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
    return message


def _given(fault: Any) -> str:
    """The value, where the message does not tell enough without."""
    telling = fault["type"] in ("extra_forbidden", "missing", "value_error")
    return "" if telling or isinstance(fault["input"], Mapping) else f" (got {fault['input']!r})"


def _choices(
    path: Sequence[str], values: Mapping[str, Any], model: type[BaseModel]
) -> Iterable[str]:
    """The fields there may be in the mapping at ``path``."""
    node: Any = values
    found: list[Slot[Any] | type[BaseModel]] = [model]
    for step in path:
        # A step that is no field is a key of a mapping or the place in a list.
        field = _field(_class_at(found, node), step)
        found = (field and list(_slots(field))) or found
        node = _inside(node, step)
    return _class_at(found, node).model_fields


def _field(cls: type[BaseModel], name: str) -> FieldInfo | None:
    """The field that a user calls ``name``, by its own name or an older one."""
    return next(
        (field for own, field in cls.model_fields.items() if name == own or name in aliases(field)),
        None,
    )


def aliases(field: FieldInfo) -> list[str]:
    """The names under which a field may be written, the one of today first."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    return [choice for choice in choices if isinstance(choice, str)]


def _class_at(found: Sequence[Slot[Any] | type[BaseModel]], node: Any) -> type[BaseModel]:
    """The class that ``node`` is written for: the one that knows most of its keys."""
    classes = [_class_in(one, node) if isinstance(one, Slot) else one for one in found]
    keys: set[Any] = set(node) if is_mapping(node) else set()
    return max(classes, key=lambda cls: len(keys & cls.model_fields.keys()))


def _class_in(slot: Slot[Any], node: Any) -> type[BaseModel]:
    try:
        return slot.class_of(slot.coerce(node))
    except ConfigError:  # its type is a fault of its own
        return slot.base


def _inside(node: Any, step: str) -> Any:
    if is_mapping(node):
        return node[step]
    return node[int(step)] if _is_list(node) else getattr(node, step)


def _is_list(node: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(node, list | tuple)


def _slots(field: FieldInfo) -> Iterator[Slot[Any] | type[BaseModel]]:
    """The slots and pydantic models that a field may hold."""
    slots: list[Slot[Any]] = [one for one in field.metadata if isinstance(one, Slot)]
    yield from slots or _held(field.annotation)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _held(annotation: Any) -> Iterator[Slot[Any] | type[BaseModel]]:
    if isinstance(annotation, Slot) or _is_model(annotation):
        yield annotation
    else:
        parts = get_args(annotation)
        yield from [part for part in parts if isinstance(part, Slot)] or (
            held for part in parts for held in _held(part)
        )
