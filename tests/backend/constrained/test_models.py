"""Types of pydantic: whatever is written under their schema is parsed."""

from __future__ import annotations

import collections
import datetime
import enum
import fractions
import ipaddress
import itertools
import pathlib
import uuid
import zoneinfo
from decimal import Decimal
from re import Pattern
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic import networks as net
from pydantic.json_schema import GenerateJsonSchema

from tests.helpers.grammars import completion
from w2s_chains.backend.constrained.compile import check_constraint
from w2s_chains.backend.constrained.models import schema_of_model
from w2s_chains.core.sampling import Constraint
from w2s_chains.errors import ConfigError, ConstraintError

Colour = enum.StrEnum("Colour", ["RED", "BLUE"])
DAY, NOON = datetime.date(2020, 2, 1), datetime.time(12)
KINDS: dict[str, Any] = {
    "decimal": Decimal,
    "price": Annotated[Decimal, Field(max_digits=6, decimal_places=2, ge=0)],
    "cents": Annotated[Decimal, Field(decimal_places=2)],
    "digits": Annotated[Decimal, Field(max_digits=4)],
    "share": Annotated[Decimal, Field(max_digits=2, decimal_places=2)],
    "step": Annotated[Decimal, Field(multiple_of=0.05)],
    "positive": pydantic.PositiveFloat,
    "finite": pydantic.FiniteFloat,
    "complex": complex,
    "bytesize": pydantic.ByteSize,
    "date": datetime.date,
    "after": Annotated[datetime.date, Field(ge=DAY)],
    "between": Annotated[datetime.date, Field(gt=DAY, le=datetime.date(2020, 2, 29))],
    "datetime": datetime.datetime,
    "moment": Annotated[datetime.datetime, Field(lt=datetime.datetime(2020, 1, 1))],
    "time": datetime.time,
    "morning": Annotated[datetime.time, Field(lt=NOON)],
    "timedelta": datetime.timedelta,
    "past": pydantic.PastDate,
    "future": pydantic.FutureDate,
    "past_moment": pydantic.PastDatetime,
    "future_moment": pydantic.FutureDatetime,
    "aware": pydantic.AwareDatetime,
    "naive": pydantic.NaiveDatetime,
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "network4": ipaddress.IPv4Network,
    "network6": ipaddress.IPv6Network,
    "interface6": ipaddress.IPv6Interface,
    "any_address": net.IPvAnyAddress,
    "any_network": net.IPvAnyNetwork,
    "url": pydantic.AnyUrl,
    "http": pydantic.HttpUrl,
    "file_url": pydantic.FileUrl,
    "postgres": pydantic.PostgresDsn,
    "mongo": pydantic.MongoDsn,
    "path": pathlib.Path,
    "secret": pydantic.SecretStr,
    "bytes": Annotated[bytes, Field(max_length=9)],
    "base64": pydantic.Base64Bytes,
    "base64url": pydantic.Base64UrlBytes,
    "stripped": Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=3)],
    "phone": Annotated[str, Field(pattern=r"\d{3}-\d{4}")],
    "set": set[str],
    "frozenset": Annotated[frozenset[int], Field(min_length=1, max_length=3)],
    "deque": collections.deque[int],
    "by_literal": dict[Literal["a", "b"], int],
    "by_enum": dict[Colour, int],
    "by_int": dict[int, str],
    "by_float": dict[float, int],
    "by_bool": dict[bool, int],
    "by_date": dict[datetime.date, int],
    "by_pattern": dict[Annotated[str, Field(pattern="^a+$")], int],
    "by_length": Annotated[dict[Annotated[str, Field(max_length=3)], int], Field(min_length=1)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_completion_parses(kind: str) -> None:
    model = create_model("M", x=(KINDS[kind], ...))
    constraint = Constraint.json_schema(schema_of_model(model))
    for seed in range(10):
        model.model_validate_json(completion(constraint, seed))


def test_every_completion_of_a_pair_parses() -> None:
    for at, (one, two) in enumerate(
        itertools.pairwise([*KINDS, *KINDS][:: len(KINDS) // 4 * 2 + 1])
    ):
        model = create_model("M", x=(KINDS[one], ...), y=(KINDS[two], ...))
        model.model_validate_json(completion(Constraint.json_schema(schema_of_model(model)), at))


@pytest.mark.parametrize("kind", ["decimal", "past", "http", "by_int", "naive", "cents"])
def test_pydantic_alone_says_too_little(kind: str) -> None:
    """Control: under pydantic's own schema some completions do not parse."""
    model = create_model("M", x=(KINDS[kind], ...))
    own = model.model_json_schema(schema_generator=GenerateJsonSchema)

    def all_parse() -> None:
        for seed in range(40):
            model.model_validate_json(completion(Constraint.json_schema(own), seed))

    with pytest.raises(ValidationError):
        all_parse()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (pydantic.Json[list[int]], "JSON inside of text"),
        (pydantic.FilePath, "must exist"),
        (pydantic.NewPath, "does not exist yet"),
        (pydantic.Base64Str, "UTF-8"),
        (Pattern[str], "regular expression"),
        (zoneinfo.ZoneInfo, "time zone"),
        (dict[Literal[1, 2], int], "keys"),
        (dict[tuple[int, int], int], "keys"),
        (Annotated[set[int], Field(min_length=2)], "uniqueItems"),
        (Annotated[dict[str, int], Field(min_length=2)], "minProperties is 2"),
    ],
)
def test_what_cannot_be_promised_is_refused(kind: Any, words: str) -> None:
    with pytest.raises((ConfigError, ConstraintError), match=words):
        check_constraint(Constraint.json_schema(schema_of_model(create_model("M", x=(kind, ...)))))


class Film(BaseModel):
    """A film."""

    title: str
    tags: set[str]
    rank: fractions.Fraction | None = None


def test_plain_types_look_as_pydantic_shows_them() -> None:
    schema = schema_of_model(Film)
    assert schema["properties"]["title"] == {"type": "string"}
    assert schema["properties"]["tags"] == {"type": "array", "items": {"type": "string"}}
    assert schema["description"] == "A film."
