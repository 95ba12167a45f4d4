"""Compares what a page shows with what its code prints."""

from __future__ import annotations

import re

_PIECE = re.compile(r"(?P<gap>\.\.\.)|(?P<number>[-+]?\d+\.\d+)|(?P<space>\s+)")
_NUMBER = r"([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"


def difference(shown: str, printed: str) -> str | None:
    """What differs, or None.

    Layout does not count, ``...`` stands for any text, and a number with decimals is right if it
    is the printed one, rounded.
    """
    shown = shown.strip()
    pattern, numbers, at = "", [], 0
    for piece in _PIECE.finditer(shown):
        pattern += re.escape(shown[at : piece.start()])
        at = piece.end()
        if piece["gap"]:
            pattern += r".*?"
        elif piece["number"]:
            pattern += _NUMBER
            numbers.append(piece["number"])
        else:
            pattern += r"\s+"
    found = re.fullmatch(pattern + re.escape(shown[at:]), printed.strip(), re.DOTALL)
    if found is None:
        return f"the page shows\n{shown}\nbut the code prints\n{printed.strip()}"
    for number, actual in zip(numbers, found.groups(), strict=True):
        if abs(float(number) - float(actual)) > _rounding(number, actual):
            return f"the page shows {number}, but the code prints {actual}"
    return None


def _rounding(shown: str, printed: str) -> float:
    """Half a unit in the last place, or a whole one where the printed number is rounded too."""
    digits, own = (len(number.partition(".")[2]) for number in (shown, printed))
    return (1.01 if own <= digits else 0.51) * 10.0**-digits
