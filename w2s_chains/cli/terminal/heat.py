"""``Report``: scored texts on a terminal, coloured token by token, or as a table in a pipe."""

from __future__ import annotations

import bisect
import sys
import unicodedata
from collections.abc import Iterator

from rich.console import Console
from rich.style import Style
from rich.text import Text

from w2s_chains.core.prompts import Prompt
from w2s_chains.engine.texts import TextScore

STEPS = (0.25, 0.75, 1.5)
"""Log-ratios of a token, in nats, from which its colour is another: 1.3, 2.1 and 4.5 times."""

_PALETTE = ("#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fee0b6", "#fdb863", "#e08214")
"""From blue over white to orange (ColorBrewer), which nobody's eyes confuse; text on it is black,
so that it can be read whatever the terminal's own colours are."""
_FEW = ("white on blue", "black on cyan", "", "", "", "black on yellow", "white on red")
"""The same for terminals with 16 colours, where small differences have none."""

_END = "\u220e"
_PROMPT_LENGTH = 240
"""The most characters of a prompt that are shown, from its end."""


class Report:
    """Prints scored texts, one after another."""

    def __init__(self, console: Console | None = None) -> None:
        """Print to a console; by default to standard output."""
        if console is None:
            console = Console(highlight=False, markup=False, emoji=False)
            if reconfigure := getattr(sys.stdout, "reconfigure", None):
                reconfigure(errors="backslashreplace")  # its encoding may not know a character
        self._console = console
        self._coloured = console.color_system is not None and not console.no_color
        few = console.color_system == "standard"
        styles = _FEW if few else [f"#000000 on {own}" for own in _PALETTE]
        self._styles = [Style.parse(own) for own in styles]
        self._began = False

    def show(self, place: str, found: TextScore) -> None:
        """Print one text with its scores; first the legend, before the first."""
        if self._coloured and found.tokens is not None and not self._began:
            self._console.print(self._legend(), end="\n\n")
        self._began = True
        self._console.print(f"{place}:", style="bold")
        self._console.print(self._text(found))
        for line in _totals(found):
            self._console.print(line)
        if not self._coloured and found.tokens is not None:
            for line in _table(found):
                self._console.print(line, soft_wrap=True)
        self._console.print()

    def _legend(self) -> Text:
        bounds = ["0", *(f"{step:g}" for step in STEPS)]
        names = [*(f"-{name}" for name in bounds[:0:-1]), "0", *(f"+{name}" for name in bounds[1:])]
        legend = Text("untuned likelier ")
        for name, style in zip(names, self._styles, strict=True):
            legend.append(f" {name} ", style)
        legend.append(" tuned likelier\n")
        legend.append(f"log-ratio of each token, in nats; {_END} is the end of the turn", "dim")
        return legend

    def _text(self, found: TextScore) -> Text:
        shown = Text(overflow="fold")
        shown.append(_prompt(found.prompt), "dim")
        if not self._coloured or found.tokens is None:
            shown.append(visible(found.text))
            return shown
        for piece, ratio in _units(found):
            shown.append(visible(piece), self._styles[step(ratio)])
        return shown


def step(ratio: float) -> int:
    """Return the place of a log-ratio in a palette of ``2 * len(STEPS) + 1`` colours."""
    size = bisect.bisect_right(STEPS, abs(ratio))
    return len(STEPS) + (size if ratio > 0 else -size)


def visible(text: str, *, breaks: bool = True) -> str:
    """Return a text in which control characters, and others that are not seen, can be seen.

    Args:
        text: The text.
        breaks: Whether a line break also breaks the line, after its symbol.
    """
    return "".join(_symbol(char, breaks) for char in text)


def _symbol(char: str, breaks: bool) -> str:
    if char == "\n":
        return "\u21b5\n" if breaks else "\u21b5"
    if char == "\t":
        return "\u21e5"
    if char < " ":
        return chr(0x2400 + ord(char))
    if char == "\x7f":
        return "\u2421"
    category = unicodedata.category(char)
    # Joiners are part of emoji and of scripts.
    if category in ("Zl", "Zp") or (category[0] == "C" and char not in "\u200c\u200d"):
        return f"<U+{ord(char):04X}>"
    return char


def _units(found: TextScore) -> Iterator[tuple[str, float]]:
    """Yield what can be coloured, each with its log-ratio.

    Tokens that spell a part of a character count for the token that completes it.
    """
    assert found.tokens is not None
    texts, ratios = list(found.tokens.texts), found.tokens.ratios
    if found.tokens.ended:
        texts[-1] = _END
    waiting = 0.0
    for text, ratio in zip(texts, ratios, strict=True):
        waiting += ratio
        if text:
            yield text, waiting
            waiting = 0.0
    if waiting:
        yield "\u2026", waiting


def _prompt(prompt: Prompt) -> str:
    text = visible(prompt.plain_text)
    if len(text) > _PROMPT_LENGTH:
        text = f"\u2026{text[-_PROMPT_LENGTH:]}"
    return text if prompt.text is not None else f"{text}\n"


def _totals(found: TextScore) -> Iterator[str]:
    values = {"log-ratio": found.ratio, "tuned": found.tuned, "untuned": found.untuned}
    count = None if found.tokens is None else len(found.tokens.texts)
    for name, value in values.items():
        sign = "+" if name == "log-ratio" else ""
        each = f"  {value / count:{sign}8.2f} per token" if count else ""
        yield f"  {name:<9} {value:{sign}10.2f} nats{each}"
    if found.score is not None:
        yield f"  {'scorer':<9} {found.score:10.2f}"


def _table(found: TextScore) -> Iterator[str]:
    """Yield a line for each token; signs stand for colours."""
    assert found.tokens is not None
    tokens = found.tokens
    yield f"  {'ratio':>8}  {'':<3}  {'tuned':>8}  {'untuned':>8}  token"
    for at, (text, tuned, untuned) in enumerate(
        zip(tokens.texts, tokens.tuned, tokens.untuned, strict=True)
    ):
        last = tokens.ended and at == len(tokens.texts) - 1
        said = (
            f"'{visible(text, breaks=False)}'" if text else "end of the turn" if last else "\u2026"
        )
        ratio = tuned - untuned
        size = step(ratio) - len(STEPS)
        signs = ("+" if size > 0 else "-") * abs(size)
        yield f"  {ratio:+8.2f}  {signs:<3}  {tuned:8.2f}  {untuned:8.2f}  {said}"
