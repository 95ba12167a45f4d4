"""``LiveSearch``: a search on a terminal while it runs, drawn by rich."""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, get_character_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from w2s_chains.core.events import Committed, Event, Finished, Grown, Scored

_DIM, _BOLD = Style(dim=True), Style(bold=True)
_MOST_COMMITTED = 5
"""The most lines of committed text that are shown, from its end."""
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def harmless(text: str) -> str:
    """Return a text that no terminal takes for commands: control characters become pictures.

    Line ends and tabs stay. What turns the direction of text is left out, since it would reach
    beyond the text.
    """
    return "".join(_pictured(char) for char in text if char not in _BIDI)


def _pictured(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) != "Cc":
        return char
    return chr(0x2400 + ord(char)) if ord(char) < 32 else "\u2421" if char == "\x7f" else "\ufffd"


@dataclass(slots=True, kw_only=True)
class _Row:
    """A candidate on the screen.

    Attributes:
        id: Its number.
        text: Its whole text.
        own: Where its last chunk begins.
        score: Its score; None until it is known.
        state: What became of it; empty until that is known.
    """

    id: int
    text: str
    own: int = 0
    score: float | None = None
    state: str = ""


class LiveSearch:
    """Takes the events of a traced search, and draws what it holds at any time.

    Above is the text that is committed, then what became of the last round's candidates, then the
    candidates of this round. The height never shrinks, so that nothing jumps.

    Attributes:
        committed: The text that is committed.
    """

    def __init__(self, title: str) -> None:
        """Begin.

        Args:
            title: What stands at the top, such as the strategy.
        """
        self._title = title
        self._begin = time.perf_counter()
        self.committed = ""
        self._round = 0
        self._read: int | None = None
        self._texts = {0: ""}
        self._before: list[_Row] = []
        self._now: list[_Row] = []
        self._rows = 0
        self._finished: Finished | None = None

    def seen(self, events: Iterable[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
        """Take events, and pass them on."""
        for index, event in events:
            self.take(event)
            yield index, event

    def take(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, Grown):
            self._grow(event)
        elif isinstance(event, Scored):
            self._score(event)
        elif isinstance(event, Committed):
            self.committed += event.text
        elif isinstance(event, Finished):
            self._finished = event

    def _grow(self, event: Grown) -> None:
        dropped = set(event.dropped)
        for row in self._now:
            row.state = "out" if row.id in dropped else row.state or "kept"
        scored = [row for row in self._now if row.score is not None]
        self._before, self._now = scored or self._now, []  # twins are not scored
        self._round, self._read = event.round, event.read_tokens
        for new in event.candidates:
            above = self._texts.get(new.parent, "")
            self._texts[new.id] = above + new.text
            state = "" if new.finish_reason is None else "done"
            self._now.append(_Row(id=new.id, text=above + new.text, own=len(above), state=state))
        for id in dropped:
            self._texts.pop(id, None)

    def _score(self, event: Scored) -> None:
        known = {row.id: row for row in self._now}
        carried = {row.id: row for row in self._before}
        for id, text, score in zip(event.ids, event.texts, event.scores, strict=False):
            if id in known:
                known[id].score = score
            else:  # a whole answer of an earlier round, beside which the new ones have to stand
                state = carried[id].state if id in carried else "done"
                self._now.append(_Row(id=id, text=text, own=len(text), score=score, state=state))

    @property
    def summary(self) -> str:
        """One line: what the search has read, and what came of it."""
        parts = [self._title, f"round {max(self._round, 1)}"]
        if self._read is not None:
            parts.append(f"{self._read:,} rows read")
        if self._finished is not None:
            if self._finished.score is not None:
                parts.append(f"score {self._finished.score:+.2f}")
            parts.append(f"ended by {self._finished.finish_reason}")
        parts.append(f"{time.perf_counter() - self._begin:.1f} s")
        return " · ".join(parts)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        lines = [_cropped(Text(self.summary, _BOLD), width)]
        if self.committed:
            text = Text(harmless(self.committed).lstrip(), overflow="fold")
            lines += [_rule("Committed"), *list(text.wrap(console, width))[-_MOST_COMMITTED:]]
        room = max(console.size.height - 2 - len(lines), 2)
        sections = [
            (f"Round {self._round - 1}", sorted(self._before, key=_rank)),
            (f"Round {self._round}", sorted(self._now, key=_rank)),
        ]
        sections = [(title, rows) for title, rows in sections if rows]
        drawn: list[Text] = []
        for left, (title, rows) in zip(range(len(sections), 0, -1), sections, strict=True):
            drawn += self._section(title, rows, (room - len(drawn)) // left, width)
        self._rows = min(max(self._rows, len(lines) + len(drawn)), room + len(lines))
        blank = [Text("")] * (self._rows - len(lines) - len(drawn))
        yield Text("\n").join([*lines, *drawn, *blank])

    def _section(self, title: str, rows: Sequence[_Row], room: int, width: int) -> list[Text]:
        """Draw a section in at most ``room`` lines."""
        if room < 2:
            return []
        fit = len(rows) if len(rows) < room else room - 2
        hidden = f", the best {fit} of {len(rows)}" if fit < len(rows) else ""
        return [_rule(title + hidden), *(self._line(row, width) for row in rows[:fit])]

    def _line(self, row: _Row, width: int) -> Text:
        """Draw a candidate: its state, its score, and the end of its text."""
        score = "" if row.score is None else f"{row.score:+.2f}"
        head = f"{row.state:<4} {score:>7}  "
        follows = row.text.startswith(self.committed)  # what was rejected early may not
        begin = min(len(self.committed), row.own) if follows else 0
        own = len(_one_line(row.text[row.own :]))
        kept = _tail(_one_line(row.text[begin:].lstrip()), width - len(head))
        text = Text(head)
        text.append(kept[: len(kept) - own] if own < len(kept) else "", _DIM)
        text.append(kept[len(kept) - own :] if own < len(kept) else kept)
        if row.state == "out":
            text.stylize(_DIM)
        elif row.state:
            text.stylize("green", 0, len("kept"))
        return text


def _rank(row: _Row) -> tuple[bool, float]:
    return row.state == "out", math.inf if row.score is None else -row.score


def _rule(title: str) -> Text:
    return Text(f"── {title}", _DIM)


def _one_line(text: str) -> str:
    return harmless(text).replace("\n", "↵").replace("\t", " ")


def _cropped(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _tail(text: str, width: int) -> str:
    """Return the end of a text that fits into ``width`` cells."""
    if cell_len(text) <= width:
        return text
    room, at = width - 1, len(text)
    while at > 0 and (room := room - get_character_cell_size(text[at - 1])) >= 0:
        at -= 1
    return "…" + text[at:]
