"""``pattern_of``: regular expressions of string formats, so that what matches can be parsed.

llguidance knows the formats of JSON Schema by their grammar, which has dates that do not exist. The
others are those of pydantic's types, and some that only ``models.py`` writes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from datetime import date, timedelta
from string import ascii_lowercase

_DAY = r"(?:0[1-9]|1[0-9]|2[0-8])"
_YEAR = r"(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_FOURS = r"(?:0[48]|[2468][048]|[13579][26])"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[1-9]|1[0-2])-{_DAY}|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31)"
    rf"|(?:[0-9]{{2}}{_FOURS}|{_FOURS}00)-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_OFFSET = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_HOURS = "T(?:[0-9]{1,8}H(?:[0-9]{1,8}M(?:[0-9]{1,8}S)?)?|[0-9]{1,8}M(?:[0-9]{1,8}S)?|[0-9]{1,8}S)"
_DAYS = "(?:[0-9]{1,4}Y(?:[0-9]{1,4}M(?:[0-9]{1,6}D)?)?|[0-9]{1,4}M(?:[0-9]{1,6}D)?|[0-9]{1,6}D)"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_HEX = "[0-9A-Fa-f]"
_GROUP = f"{_HEX}{{1,4}}"
_IPV6 = "(?:" + "|".join(
    [f"(?:{_GROUP}:){{7}}{_GROUP}", f"::(?:{_GROUP}(?::{_GROUP}){{0,6}})?"]
    + [
        f"{_GROUP}(?::{_GROUP}){{{n - 1}}}::(?:{_GROUP}(?::{_GROUP}){{0,{6 - n}}})?"
        for n in range(1, 7)
    ]
    + [f"{_GROUP}(?::{_GROUP}){{6}}::"]
) + ")"  # fmt: skip
_LABEL = "[A-Za-z0-9]{1,20}(?:-[A-Za-z0-9]{1,10}){0,3}"
_HOST = rf"(?:(?:{_LABEL}\.){{0,3}}[A-Za-z][A-Za-z0-9]{{0,20}}|{_IPV4})"
_URL_CHARACTER = "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})"
_URL_REST = (
    rf"(?::(?:[1-9][0-9]{{0,3}}|[1-5][0-9]{{4}}))?(?:/{_URL_CHARACTER}*)*"
    rf"(?:\?(?:{_URL_CHARACTER}|[/?])*)?(?:#(?:{_URL_CHARACTER}|[/?])*)?"
)
_USER = "(?:[A-Za-z0-9._~-]+(?::[A-Za-z0-9._~-]+)?@)?"
_MAILBOX = "[A-Za-z0-9]{1,20}(?:[._+-][A-Za-z0-9]{1,10}){0,3}"
_RESERVED = ("arpa", "example", "invalid", "local", "localhost", "onion", "test")
"""Top-level names that a validator of addresses refuses."""
_BASE64 = "(?:{0}{{4}})*(?:{0}[AQgw]==|{0}{{2}}[AEIMQUYcgkosw048]=)?"
_WHOLE = "-?(?:0|[1-9][0-9]{0,17})"


def _other_than(words: Collection[str]) -> str:
    """Match 2 to 21 lowercase letters that are none of ``words``."""
    ways: list[str] = []
    for start in sorted({word[:at] for word in words for at in range(len(word) + 1)}):
        taken = {word[len(start)] for word in words if word[:-1].startswith(start)}
        others = "".join(letter for letter in ascii_lowercase if letter not in taken)
        ways.append(f"{start}[{others}][a-z]{{{0 if start else 1},{20 - len(start)}}}")
        ways += [start] if len(start) > 1 and start not in words else []
    return f"(?:{'|'.join(ways)})"


def _uuid(version: str) -> str:
    ends = f"{version}{_HEX}{{3}}-[89ABab]" if version else f"{_HEX}{{4}}-{_HEX}"
    return f"{_HEX}{{8}}-{_HEX}{{4}}-{ends}{_HEX}{{3}}-{_HEX}{{12}}"


def _ipv4_network() -> str:
    """Match addresses whose bits after the prefix are zero."""
    ways = [_IPV4]
    for size in range(33):
        whole, bits = divmod(size, 8)
        parts = [_OCTET] * whole
        if bits:
            step = 2 ** (8 - bits)
            parts.append(f"(?:{'|'.join(map(str, range(0, 256, step)))})")
        parts += ["0"] * (4 - len(parts))
        ways.append(r"\.".join(parts) + f"/{size}")
    return f"(?:{'|'.join(ways)})"


def _ipv6_network() -> str:
    ways = [rf"{_IPV6}(?:/128)?", "::/0"]
    for groups in range(1, 8):
        sizes = "|".join(map(str, range(16 * groups, 129)))
        ways.append(f"{_GROUP}(?::{_GROUP}){{{groups - 1}}}::/(?:{sizes})")
    return f"(?:{'|'.join(ways)})"


_IPV4_INTERFACE = f"{_IPV4}(?:/(?:[12]?[0-9]|3[0-2]))?"
_IPV6_INTERFACE = f"{_IPV6}(?:/(?:[1-9]?[0-9]|1[01][0-9]|12[0-8]))?"

_EMAIL = rf"{_MAILBOX}@(?:{_LABEL}\.){{1,3}}{_other_than(_RESERVED)}"

_PATTERNS = {
    "date": _DATE,
    "time": f"{_CLOCK}{_OFFSET}",
    "date-time": f"{_DATE}[Tt]{_CLOCK}{_OFFSET}",
    "time-naive": _CLOCK,
    "date-time-naive": f"{_DATE}T{_CLOCK}",
    "duration": f"P(?:[0-9]{{1,6}}W|{_DAYS}(?:{_HOURS})?|{_HOURS})",
    "email": _EMAIL,
    "name-email": _EMAIL,
    "uuid": _uuid(""),
    **{f"uuid{version}": _uuid(str(version)) for version in range(1, 9)},
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "ipv4network": _ipv4_network(),
    "ipv6network": _ipv6_network(),
    "ipv4interface": _IPV4_INTERFACE,
    "ipv6interface": _IPV6_INTERFACE,
    "ipvanyaddress": f"(?:{_IPV4}|{_IPV6})",
    "ipvanynetwork": f"(?:{_ipv4_network()}|{_ipv6_network()})",
    "ipvanyinterface": f"(?:{_IPV4_INTERFACE}|{_IPV6_INTERFACE})",
    "base64": _BASE64.format("[A-Za-z0-9+/]"),
    "base64url": _BASE64.format("[A-Za-z0-9_-]"),
    "fraction": f"{_WHOLE}(?:/[1-9][0-9]{{0,17}})?",
    # These are written by ``models.py`` only.
    "decimal": r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?",
    "complex": rf"{_WHOLE}(?:\.[0-9]{{1,6}})?(?:[+-][0-9]{{1,17}}(?:\.[0-9]{{1,6}})?j)?",
    "whole-number": _WHOLE,
    "decimal-number": rf"{_WHOLE}(?:\.[0-9]{{1,6}})?",
    "ascii": r"[ !#-\[\]-~]*",
    "stripped": r"[!-~](?:(?s:.*)[!-~])?",
}  # fmt: skip
_DATED = re.compile(r"(date|time-naive|date-time|date-time-naive)-(before|after)-([0-9:-]{8,10})")
_URL = re.compile(r"([a-z0-9+.|-]+)-url")


@functools.lru_cache(maxsize=256)
def patterns_of(name: str) -> tuple[str, ...]:
    """Return the anchored patterns that a format stands for; none for a mere annotation.

    Besides fixed names there are ``{date|date-time|date-time-naive}-{before|after}-YYYY-MM-DD``,
    ``time-naive-{before|after}-HH:MM:SS``, ``url`` and ``{scheme}|{scheme}-url``.
    """
    inner = _PATTERNS.get(name)
    if name == "url":
        inner = rf"[a-z][a-z0-9]{{2,9}}://{_HOST}{_URL_REST}"
    elif found := _URL.fullmatch(name):
        schemes = "|".join(map(re.escape, found.group(1).split("|")))
        start = "file:///" if schemes == "file" else f"(?:{schemes})://{_USER}{_HOST}"
        inner = start + _URL_REST
    elif found := _DATED.fullmatch(name):
        kind, side, day = found.groups()
        return (*patterns_of(kind), f"^(?:{_beside(kind, side == 'before', day)})$")
    return () if inner is None else (f"^(?:{inner})$",)


def _beside(kind: str, before: bool, day: str) -> str:
    """Match texts that begin with what is less or more than a day, strictly."""
    if kind != "date-time":
        return f"(?:{_beyond(day, before)}).*"
    # An offset moves a moment by up to a day.
    sure = date.fromisoformat(day) + timedelta(days=-1 if before else 1)
    return f"(?:{_beyond(day, before)}).*Z|(?:{_beyond(sure.isoformat(), before)}).*"


def _beyond(day: str, before: bool) -> str:
    """Match texts of digits and dashes that are less or more than ``day``."""
    ways = [
        day[:at] + (f"[0-{int(digit) - 1}]" if before else f"[{int(digit) + 1}-9]")
        for at, digit in enumerate(day)
        if digit not in ("-", ":", "0" if before else "9")
    ]
    return "|".join(f"{way}[0-9:-]*" for way in ways)
