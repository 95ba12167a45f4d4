"""``find_stop``: find the place where a stop string ends an answer."""

from __future__ import annotations

from collections.abc import Sequence


def find_stop(stop: Sequence[str], before: str, text: str) -> int | None:
    """Return how many characters of ``before + text`` to keep if a stop string ends in ``text``.

    If there are several stop strings, the one that is completed first counts, so that chunk
    borders make no difference.

    Args:
        stop: The stop strings.
        before: Text that was searched before; a stop string may begin there.
        text: New text.

    Returns:
        The number of characters before the stop string; None if none was completed.
    """
    response = before + text
    reach = max((len(s) for s in stop), default=1) - 1
    begin = max(len(before) - reach, 0)
    found = [(at + len(s), at) for s in stop if (at := response.find(s, begin)) >= 0]
    return min(found)[1] if found else None
