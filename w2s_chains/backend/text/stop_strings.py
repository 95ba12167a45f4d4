"""Where stop strings end an answer."""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(stop: Sequence[str], before: str, text: str) -> int | None:
    """How much of ``before + text`` is kept, if a stop string is complete in ``text``.

    Of several the one that is complete first counts, so that chunk borders change nothing. It may
    begin in ``before``.
    """
    response = before + text
    reach = max((len(s) for s in stop), default=1) - 1
    begin = max(len(before) - reach, 0)
    found = [(at + len(s), at) for s in stop if (at := response.find(s, begin)) >= 0]
    return min(found)[1] if found else None
