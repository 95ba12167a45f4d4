"""The registry of plug-in parts: ``Slot``, a kind of part, and ``LazyClasses``.

A ``Slot`` defines a kind of part: its base class, built-in types, default and entry point group.
It also annotates a config field,

    strategy: Annotated[SearchStrategy, STRATEGY]

and then builds and coerces the value, lists the choices in error messages and generates the JSON
schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Annotated, Any, Generic, Literal, TypeGuard, TypeVar, Union, cast

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from w2s_chains.errors import ConfigError, did_you_mean, shown

C = TypeVar("C", bound=BaseModel)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Return whether a value is a mapping, with any keys and values."""
    return isinstance(value, Mapping)


class LazyClasses(Mapping[str, type[Any]]):
    """Maps type names to classes, each of which is imported on first access."""

    def __init__(self, **places: str) -> None:
        """Register the classes without importing them.

        Args:
            **places: The location of each class by its type name, as "module:Class".
        """
        self.places = places

    def __getitem__(self, name: str) -> type[Any]:
        module, _, attribute = self.places[name].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slot(Generic[C]):
    """A kind of part that a config can name, and the classes available for it.

    Attributes:
        kind: Its name in messages, such as "strategy".
        base: The base of its classes.
        builtins: The built-in classes by type.
        group: The entry point group in which installed packages register their classes.
        default: The type of a mapping without a ``type``.
        shorthand: The field that a bare string sets: the strategy ``"best_of_n"`` means
            ``{type: best_of_n}``; a bare string as proposer sets its ``model``.
        wrap: Turns the object of an entry point into a config class if it is not one; returns None
            to use the object itself.
    """

    kind: str
    base: type[C]
    builtins: Mapping[str, type[C]]
    group: str | None = None
    default: str | None = None
    shorthand: str = "type"
    wrap: Callable[[str, Any], type[C] | None] = lambda name, found: None

    # Finding classes.

    @property
    def entry_points(self) -> Mapping[str, EntryPoint]:
        """The entry points of installed packages for this slot, by name; not imported yet."""
        if self.group is None:
            return MappingProxyType({})
        return {point.name: point for point in entry_points(group=self.group)}

    def find(self, name: str) -> type[C]:
        """Return the class of this type, built in or registered by an installed package.

        A config can never import anything else.

        Raises:
            ConfigError: The type is unknown (the message lists the choices), its package cannot be
                imported, or it is not a class that a config can build.
        """
        if name in self.builtins:
            return self.builtins[name]
        points = self.entry_points
        if name not in points:
            hint = did_you_mean(name, [*self.builtins, *points])
            raise ConfigError(f"unknown {self.kind} type {shown(name)}{hint}")
        try:
            found = points[name].load()
        except Exception as error:  # third-party packages may raise anything
            raise ConfigError(
                f"{self.kind} {name!r} cannot be imported from {points[name].value!r}: {error!r}; "
                "repair or remove the package that brings it"
            ) from error
        found = self.wrap(name, found) or found
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise ConfigError(
                f"{self.kind} {name!r} is {found!r}, which a config cannot build; it must be a "
                "pydantic model"
            )
        return found  # type: ignore[return-value]  # ``build`` checks the type of the object

    def all(self) -> dict[str, type[C]]:
        """Return every class by its type: the built-in ones, then those of installed packages.

        Raises:
            ConfigError: A package cannot be imported.
        """
        return {name: self.find(name) for name in [*self.builtins, *sorted(self.entry_points)]}

    # Building objects.

    def build(self, value: Any, context: Any = None) -> C:
        """Return an object as it is, or build one from a mapping by its ``type``.

        Args:
            value: An object of this slot, a mapping, or a bare string (see ``shorthand``).
            context: Passed to pydantic's validation.

        Raises:
            ConfigError: The type of the mapping is missing or unknown.
            pydantic.ValidationError: A field is misspelt or out of range.
        """
        value = self.coerce(value)
        if self.holds(value):
            return value
        if is_mapping(value):
            found = self.class_of(value).model_validate(dict(value), context=context)
            if self.holds(found):
                return found
        raise ConfigError(f"{self._expected}; got {shown(value)}")

    def holds(self, value: object) -> bool:
        """Return whether an object already belongs in this slot."""
        return isinstance(value, self.base)

    def coerce(self, value: Any) -> Any:
        """Expand a bare string to its mapping; return anything else unchanged."""
        return {self.shorthand: value} if isinstance(value, str) else value

    def class_of(self, value: Any) -> type[C]:
        """Return the class of an object or a mapping in this slot; raises like ``find``."""
        if not is_mapping(value):
            return cast("type[C]", type(value)) if self.holds(value) else self.base
        name = value.get("type", self.default)
        if not isinstance(name, str):
            raise ConfigError(self._expected)
        return self.find(name)

    @property
    def _expected(self) -> str:
        choices = did_you_mean("", [*self.builtins, *self.entry_points])
        return (
            f"a {self.kind} is an instance of {self.base.__name__}, or a mapping with a field "
            f"'type'{choices}"
        )

    # Pydantic's hooks for annotations.

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        def validate(value: Any, info: core_schema.ValidationInfo[Any]) -> C:
            return self.build(value, info.context)

        return core_schema.with_info_plain_validator_function(validate)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(TypeAdapter(self.json_type()).core_schema)

    def json_type(self) -> Any:
        """Return all classes as one discriminated union, for JSON schema; raises like ``all``."""
        found = self.all()
        one_of: Any = Union[tuple(found.values())]  # noqa: UP007
        if len(found) > 1:
            one_of = Annotated[one_of, Field(discriminator="type")]
        if self.shorthand != "type":
            return one_of | Annotated[str, Field(min_length=1)]
        enough = tuple(name for name, cls in found.items() if not _required(cls))
        return one_of | Literal[enough] if enough else one_of


def _required(cls: type[BaseModel]) -> bool:
    """Return whether a class has a required field beside ``type``."""
    return any(field.is_required() for name, field in cls.model_fields.items() if name != "type")
