"""``AnswersAfter``: what follows a mark in a partial answer, as an answer of its own."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from w2s_chains.core.hypothesis import Hypothesis


class AnswersAfter:
    """The answers after a mark, such as the end of a thinking model's thoughts.

    What follows the mark and the spaces after it grows as a tree of its own from the same prompt,
    so that guides read each text once, and never what is before the mark.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self._known: WeakKeyDictionary[Hypothesis, Hypothesis | None] = WeakKeyDictionary()

    def find(self, hypothesis: Hypothesis) -> Hypothesis | None:
        """Return the answer after the mark; None if the mark has not come."""
        missing: list[Hypothesis] = []
        node: Hypothesis | None = hypothesis
        while node is not None and node not in self._known:
            missing.append(node)
            node = node.parent
        for node in reversed(missing):
            self._known[node] = self._grown(node)
        return self._known[hypothesis]

    def _grown(self, node: Hypothesis) -> Hypothesis | None:
        before = None if node.parent is None else self._known[node.parent]
        if before is not None:
            text = node.text
        else:
            begin = node.n_chars - len(node.text) - len(self.mark) + 1
            _, found, text = node.text_from(max(begin, 0)).partition(self.mark)
            if not found:
                return None
            before = Hypothesis(prompt=node.prompt, usage=node.usage)
        return before.extend(
            text if before.n_chars else text.lstrip(),
            n_tokens=len(node.token_ids or ()),
            finish_reason=node.finish_reason,
        )
