"""``schema_of_model``: the JSON schema of a pydantic class, so narrow that what is valid parses.

pydantic's own schemas leave out much of what it checks: how a Decimal is written in text, that a
date lies in the past, which keys a dictionary has. What a class checks in functions of its own
stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from w2s_chains.errors import ConfigError

_NOT_IN_TEXT = {
    "file-path": "must exist on this machine",
    "directory-path": "must exist on this machine",
    "regex": "must be a valid regular expression",
    "zoneinfo": "must be the name of a time zone",
    "color": "must be a colour",
}
"""Formats of pydantic's types that no grammar describes."""
_UNSURE = {
    "PathType.validate_new": "must be a path that does not exist yet",
    "EncodedStr.decode_str": "must be UTF-8 inside of an encoding",
}
"""The same, by the functions that check them."""
_BYTE_SIZE = r"^\s*(\d*\.?\d+)\s*(\w+)?"
_FINITE = {"type": "number", "format": "finite"}
"""A number that is not, like 1e999, infinite."""


def schema_of_model(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of a pydantic class.

    Raises:
        ConfigError: It has a field of a type that no schema describes.
    """
    schema = model.model_json_schema(schema_generator=_NarrowSchema)
    for place, part in _parts(schema, "#"):
        reason = _NOT_IN_TEXT.get(str(part.get("format")))
        if part.get("contentMediaType") == "application/json":
            reason = "must be JSON inside of text"
        if reason is not None:
            raise ConfigError(
                f"{model.__name__} at {place} {reason}, which constrained answers cannot promise; "
                "make that a str (or the inner type), and convert it after parsing"
            )
    return schema


def _parts(schema: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(schema, dict):
        known = cast(dict[str, Any], schema)
        yield place, known
        for key, part in known.items():
            if key not in ("default", "examples", "enum", "const"):
                yield from _parts(part, f"{place}/{key}")
    elif isinstance(schema, list):
        for at, part in enumerate(cast(list[Any], schema)):
            yield from _parts(part, f"{place}/{at}")


class _NarrowSchema(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # a title only repeats the name

    # Numbers.

    def float_schema(self, schema: Any) -> dict[str, Any]:
        result = super().float_schema(schema)
        if schema.get("allow_inf_nan") is False and not _bounds(schema):
            result |= _FINITE
        return result

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        bounds = _bounds(schema)
        if digits is None and places is None:
            number = {"type": "number", **bounds} if bounds else _FINITE
            step = schema.get("multiple_of")
            if step is not None:
                return {**number, "multipleOf": float(step)}
            text = {"type": "string", "format": "decimal"}
            return number if bounds else {"anyOf": [number, text]}
        if places is None:
            places = 0 if digits is None else digits // 2
        whole = 15 if digits is None else max(digits - places, 0)
        limit = 10**whole - 10**-places
        within = {
            "minimum" if not {"minimum", "exclusiveMinimum"} & bounds.keys() else "": -limit,
            "maximum" if not {"maximum", "exclusiveMaximum"} & bounds.keys() else "": limit,
        }
        within.pop("", None)
        number = {"type": "number", **bounds, **within, "multipleOf": float(f"1e-{places}")}
        if bounds:
            return number
        if not whole:  # then 0 has a digit too many
            return {"type": "string", "pattern": rf"^-?0\.[0-9]{{1,{places}}}$"}
        rest = rf"(\.[0-9]{{1,{places}}})?" if places else ""
        text = f"^-?(0|[1-9][0-9]{{0,{whole - 1}}}){rest}$"
        return {"anyOf": [number, {"type": "string", "pattern": text}]}

    def complex_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": "string", "format": "complex"}

    # Dates.

    def date_schema(self, schema: Any) -> dict[str, Any]:
        today = date.today()
        before = _days(schema, ("lt", 0), ("le", 1))
        after = _days(schema, ("gt", 0), ("ge", -1))
        before += [today] * (schema.get("now_op") == "past")
        after += [today] * (schema.get("now_op") == "future")
        return _dated("date", before, after)

    def datetime_schema(self, schema: Any) -> dict[str, Any]:
        limits = [schema[key] for key in ("lt", "le", "gt", "ge") if key in schema]
        naive = schema.get("tz_constraint") == "naive" or any(
            limit.tzinfo is None for limit in limits
        )
        today = datetime.now(None if naive else UTC).date()
        before = _days(schema, ("lt", 0), ("le", 0))
        after = _days(schema, ("gt", 0), ("ge", 0))
        before += [today] * (schema.get("now_op") == "past")
        after += [today] * (schema.get("now_op") == "future")
        return _dated("date-time-naive" if naive else "date-time", before, after)

    def time_schema(self, schema: Any) -> dict[str, Any]:
        before = [
            _clock(schema[key], more) for key, more in (("lt", 0), ("le", 1)) if key in schema
        ]
        after = [
            _clock(schema[key], more) for key, more in (("gt", 0), ("ge", -1)) if key in schema
        ]
        return _dated("time-naive" if before or after else "time", before, after)

    # Text.

    def str_schema(self, schema: Any) -> dict[str, Any]:
        result = super().str_schema(schema)
        if schema.get("pattern") == _BYTE_SIZE:
            return {"type": "string", "pattern": "^[0-9]{1,9}([KMGT]?i?B)?$"}
        if schema.get("strip_whitespace") and {"min_length", "pattern"} & set(schema):
            result["format"] = "stripped"
        return result

    def bytes_schema(self, schema: Any) -> dict[str, Any]:
        result = super().bytes_schema(schema)
        return {**result, "format": "ascii"} if "maxLength" in result else result

    def url_schema(self, schema: Any) -> dict[str, Any]:
        return {**super().url_schema(schema), "format": _url(schema)}

    def multi_host_url_schema(self, schema: Any) -> dict[str, Any]:
        return {**super().multi_host_url_schema(schema), "format": _url(schema)}

    def function_after_schema(self, schema: Any) -> dict[str, Any]:
        name = getattr(schema["function"].get("function"), "__qualname__", "")
        if name in _UNSURE:
            raise ConfigError(
                f"a field {_UNSURE[name]}, which constrained answers cannot promise; make that a "
                "str, and convert it after parsing"
            )
        return super().function_after_schema(schema)

    # Collections.

    def set_schema(self, schema: Any) -> dict[str, Any]:
        return self._repeatable(super().set_schema(schema))

    def frozenset_schema(self, schema: Any) -> dict[str, Any]:
        return self._repeatable(super().frozenset_schema(schema))

    def _repeatable(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Allow repeated items, which pydantic drops, unless too few could remain."""
        if schema.get("minItems", 0) < 2:
            schema.pop("uniqueItems", None)
        return schema

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        result = super().dict_schema(schema)
        if "patternProperties" in result:
            result["additionalProperties"] = False
        elif "keys_schema" in schema:
            keys = self.generate_inner(schema["keys_schema"])
            names = _names(self.resolve_ref_schema(keys))
            if names is None:
                raise ConfigError(
                    f"a dictionary has keys of the type {keys!r}, which constrained answers cannot "
                    "promise; use str, int, float, bool, a Literal, an enum or a date"
                )
            result.pop("propertyNames", None)
            if names:
                result["propertyNames"] = keys if "$ref" in keys and "enum" in names else names
        return result


def _bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    names = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
    return {name: float(schema[key]) for key, name in names.items() if key in schema}


def _days(schema: Mapping[str, Any], *keys: tuple[str, int]) -> list[date]:
    """Return limits as days that are excluded."""
    found: list[date] = []
    for key, more in keys:
        if key in schema:
            limit = schema[key]
            found.append((limit.date() if isinstance(limit, datetime) else limit) + more * _DAY)
    return found


_DAY = timedelta(days=1)
_NOON = date(2000, 1, 1)


def _clock(limit: time, more: int) -> time:
    """Return a limit that is excluded."""
    moved = datetime.combine(_NOON, limit) + timedelta(seconds=more)
    return moved.time().replace(microsecond=0, tzinfo=None) if moved.date() == _NOON else limit


def _dated(
    kind: str, before: Sequence[date | time], after: Sequence[date | time]
) -> dict[str, Any]:
    formats = [f"{kind}-before-{min(map(str, before))}"] if before else []
    formats += [f"{kind}-after-{max(map(str, after))}"] if after else []
    if len(formats) < 2:
        return {"type": "string", "format": formats[0] if formats else kind}
    return {"type": "string", "allOf": [{"format": one} for one in formats]}


def _url(schema: Mapping[str, Any]) -> str:
    schemes = schema.get("allowed_schemes")
    return f"{'|'.join(schemes)}-url" if schemes else "url"


def _names(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the schema of an object's names for keys of a schema; None if there is none."""
    said = {key: keys[key] for key in keys.keys() - {"title", "description", "type"}}
    kind = keys.get("type")
    values = said.get("enum", [said["const"]] if "const" in said else None)
    if values is not None:
        return {"enum": values} if all(isinstance(value, str) for value in values) else None
    if kind == "boolean":
        return {"enum": ["true", "false"]}
    if kind in ("integer", "number"):
        if said.keys() - {"minimum", "exclusiveMinimum"}:
            return None
        form = "whole-number" if kind == "integer" else "decimal-number"
        low = said.get("minimum", said.get("exclusiveMinimum"))
        if low is None:
            return {"format": form}
        rest = "" if kind == "integer" else r"(\.[0-9]{1,6})?"
        return {"pattern": f"^[1-9][0-9]{{0,17}}{rest}$"} if low in (0, 1) else None
    if "anyOf" in said:  # Decimal, for one
        kinds = [part.get("type") for part in said["anyOf"]]
        plain = {"type": "string"} in said["anyOf"]
        return {} if plain else {"format": "decimal-number"} if "number" in kinds else None
    return said if kind == "string" or not said else None
