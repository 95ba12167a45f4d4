"""``ControlTokens``: control tokens that a text spells, to be read as plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, cast

from transformers.utils import chat_template_utils

_mark: Callable[[str, re.Pattern[str]], str] = cast("Any", chat_template_utils).mark_control_tokens


class ControlTokens:
    """The control tokens of one tokenizer.

    Attributes:
        mark: What a marked text has in it. Tokenizers of transformers understand it with the option
            ``sanitize_control_tokens``, and cut the text at a control token as they always do.
    """

    mark = _mark("x", re.compile("x"))[0]

    def __init__(self, texts: Collection[str]) -> None:
        longest_first = sorted(texts, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # never

    def marked(self, text: str) -> str:
        """Mark what looks like a control token; a text that spells none stays as it is."""
        return _mark(text, self._spelled) if self._spelled.search(text) else text
