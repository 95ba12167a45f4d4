"""``ThoughtReader``: tell the thoughts of a thinking model apart from its answer."""

from __future__ import annotations

from w2s_chains.core.prompts import ThoughtFormat


class ThoughtReader:
    """Separate thoughts from what is said after them, while both are generated.

    Thoughts come first, between two marks; the first mark may be part of the prompt. An answer that
    begins otherwise has no thoughts. Text that may be the beginning of a mark is held back, and
    so are spaces before the second mark; those around the thoughts belong to neither side.
    """

    def __init__(self, form: ThoughtFormat) -> None:
        self._marks = (form.begin, form.end)
        self._place = "thoughts" if form.begun else "before"
        self._held = ""

    def text(self, new: str) -> tuple[str, str]:
        """Add ``new``; return what is certain to be a thought, and what is certain to be said."""
        self._held += new
        begin, end = self._marks
        if self._place == "before":
            start = self._held.lstrip()
            if start != begin and begin.startswith(start):  # or there is no text yet
                return "", ""
            self._place = "thoughts" if start.startswith(begin) else "said"
            self._held = start.removeprefix(begin) if self._place == "thoughts" else self._held
        thought = ""
        if self._place == "thoughts":
            thought, mark, rest = self._held.partition(end)
            if not mark:
                lengths = range(min(len(end) - 1, len(thought)), 0, -1)
                cut = next((n for n in lengths if thought.endswith(end[:n])), 0)
                thought = thought[: len(thought) - cut]
            thought = thought.rstrip()
            self._held = rest if mark else self._held[len(thought) :]
            self._place = "after" if mark else self._place
        if self._place == "after" and (said := self._held.lstrip()):
            self._place, self._held = "said", said
        if self._place != "said":
            return thought, ""
        said, self._held = self._held, ""
        return thought, said

    def rest(self) -> tuple[str, str]:
        """Return what was held back, at the end of the answer."""
        held, self._held = self._held, ""
        if self._place == "thoughts":
            return held.rstrip(), ""
        return "", held if self._place == "before" else ""
