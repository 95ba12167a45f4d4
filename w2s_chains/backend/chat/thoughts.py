"""``ThoughtReader``: tell the thoughts of a thinking model apart from its answer."""

from __future__ import annotations

from w2s_chains.core.prompts import ThoughtFormat

_FORMS = {
    "</think>": ThoughtFormat(),
    "[/THINK]": ThoughtFormat(begin="[THINK]", end="[/THINK]"),
    "<|channel|>analysis<|message|>": ThoughtFormat(
        begin="<|channel|>analysis<|message|>",
        end="<|end|><|start|>assistant<|channel|>final<|message|>",
        without="<|channel|>final<|message|>",
    ),
}
"""How models write thoughts, by what a chat template has in it that knows of them."""


def thoughts_in(template: str) -> ThoughtFormat | None:
    """Return how a model with this chat template writes thoughts; None if it has none."""
    return next((form for mark, form in _FORMS.items() if mark in template), None)


class ThoughtReader:
    """Separate thoughts from what is said after them, while both are generated.

    Thoughts come first, between two marks; the first mark may be part of the prompt. An answer that
    begins otherwise has no thoughts; a mark that says so is left out. Text that may be the
    beginning of a mark is held back, and so are spaces before the second mark; those around the
    thoughts belong to neither side.
    """

    def __init__(self, form: ThoughtFormat) -> None:
        self._end = form.end
        openings = ((form.begin, "thoughts"), (form.without, "after"))
        self._openings = {mark: place for mark, place in openings if mark}
        self._place = "thoughts" if form.begun else "before"
        self._held = ""

    def text(self, new: str) -> tuple[str, str]:
        """Add ``new``; return what is certain to be a thought, and what is certain to be said."""
        self._held += new
        end = self._end
        if self._place == "before":
            start = self._held.lstrip()
            if any(start != mark and mark.startswith(start) for mark in self._openings):
                return "", ""  # or there is no text yet
            mark = next(filter(start.startswith, self._openings), None)
            self._place = "said" if mark is None else self._openings[mark]
            self._held = self._held if mark is None else start.removeprefix(mark)
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
