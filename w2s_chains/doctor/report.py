"""A diagnosis for people: at 80 columns, in colour only on a terminal, all texts escaped."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from w2s_chains.doctor.diagnosis import (
    Diagnosis,
    Effort,
    Finding,
    LocalFacts,
    Rendered,
    ServedFacts,
    size,
)

_ESTIMATE = (
    "cache: for one prompt of the sample's length and answers of max_tokens; keys and values of "
    "all branches that the dry run keeps at once, half as much again since the store grows by "
    "halves, and all growing branches once more as a batch (at most token_budget columns); "
    "activations left out"
)
"""How the cache is estimated, see ``memory.cache_bytes``."""
_LONGEST = 1500
"""Characters of a rendered prompt to show."""
_STYLES = {"failure": "bold red", "warning": "yellow", "note": "dim"}
_LABEL = 15
_SAID = {
    "completions": "partial answers",
    "n": "n",
    "seed": "seed",
    "token_ids": "token ids",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "echo": "scores texts",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}
"""What a server can do, in a word."""


def visible(text: str, ascii_only: bool = False) -> str:
    r"""Return a text with control characters, and backslashes, as Python writes them.

    Characters that change the direction of writing or have no width are control characters, too.
    """
    shown = "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode()
        for character in text
    )
    return shown.encode("ascii", "backslashreplace").decode() if ascii_only else shown


class DiagnosisReport:
    """Prints diagnoses to one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        encoding = (getattr(console.file, "encoding", None) or "ascii").lower()
        self._ascii = not encoding.startswith("utf")
        self._marks = (
            {"failure": "x", "warning": "!", "note": "-", "fine": "ok"} if self._ascii
            else {"failure": "\u2717", "warning": "!", "note": "\u00b7", "fine": "\u2713"}
        )  # fmt: skip
        self._control = ("[[", "]]") if self._ascii else ("\u27e6", "\u27e7")

    def print(self, diagnosis: Diagnosis) -> None:
        """Print a whole diagnosis, its verdict last."""
        kind = f" (type: {diagnosis.type})" if diagnosis.type else ""
        self._line(Text(self._text(diagnosis.config), "bold") + Text(kind))
        parts = [*diagnosis.local, *diagnosis.served]
        for one in sorted(parts, key=lambda part: part.role != "proposer"):
            if isinstance(one, LocalFacts):
                self._local(one, diagnosis)
            else:
                self._served(one)
        if diagnosis.vocabulary:
            self._section("vocabulary", "of guides and proposer", [("", diagnosis.vocabulary)])
        self._memory(diagnosis)
        if diagnosis.effort is not None:
            self._effort(diagnosis.effort)
        self._findings(diagnosis)
        self._verdict(diagnosis)

    # Sections.

    def _local(self, one: LocalFacts, diagnosis: Diagnosis) -> None:
        weights = f"{size(one.weights)} ({_count(one.parameters)} parameters, {one.dtype})"
        if one.shares:
            weights = f"those of the {one.shares}"
        elif not one.fetched:
            weights += ", to be fetched from the hub"
        tokens = "?" if one.rendered is None else f"{one.rendered.tokens:,}"
        limit = "not told by its config" if one.context is None else f"{one.context:,} tokens"
        rows = [
            ("device", ", ".join(one.devices)),
            ("weights", weights),
            (
                "context",
                f"{limit}; sample {tokens} + answer up to {diagnosis.max_tokens or 0:,}",
            ),
        ]
        self._section(one.role, one.model, rows)
        self._rendered(one.rendered)

    def _served(self, one: ServedFacts) -> None:
        rows = [("server", one.server)]
        if one.key:
            rows.append(("key", f"in {one.key}, which is {'' if one.key_is_set else 'not '}set"))
        if one.can is None:
            rows.append(("can", "not known: it was not asked, or did not answer"))
        else:
            yes = [name for name in one.can if one.can[name] and name in _SAID]
            no = [name for name in one.can if not one.can[name] and name in _SAID]
            number = one.can.get("top_logprobs")
            said = [
                f"{_SAID[name]} ({number})" if name == "top_logprobs" else _SAID[name]
                for name in yes
            ]
            rows.append(("can", ", ".join(said) or "nothing of what was tried"))
            if no:
                rows.append(("cannot", ", ".join(_SAID[name] for name in no)))
        self._section(one.role, one.model, rows)
        self._rendered(one.rendered)

    def _rendered(self, one: Rendered | None) -> None:
        if one is None:
            self._rows([("sample prompt", "cannot be read (see below)")])
            return
        tokens = "" if one.tokens is None else f", {one.tokens:,} tokens"
        self._rows([("sample prompt", f"read as {one.how}{tokens}:")])
        text, shown = Text(), 0
        for piece in one.pieces:
            own = "\\n\n".join(map(self._text, piece.text.split("\n")))
            if shown + len(own) > _LONGEST:
                own = own[: max(_LONGEST - shown, 0)] + f"... ({len(piece.text):,} characters)"
            shown += len(own)
            if piece.control:
                text.append(own.join(self._control), "bold magenta")
            else:
                text.append(own)
            if shown > _LONGEST:
                break
        text.rstrip()
        self._console.print(
            Padding(text, (0, 0, 0, 4), expand=False), highlight=False, soft_wrap=False
        )

    def _memory(self, diagnosis: Diagnosis) -> None:
        rows = [
            (
                ", ".join(one.devices),
                f"weights {size(one.weights)} + cache about {size(one.cache)}; "
                f"{size(one.free)} free",
            )
            for one in diagnosis.memory
        ]
        if rows:
            self._section("memory", "", [*rows, ("estimated", _ESTIMATE)])

    def _effort(self, one: Effort) -> None:
        fields = ", ".join(
            f"{k} {v}" for k, v in one.strategy.items() if k != "type" and v is not None
        )
        several = f", for each of {one.n} answers" if one.n > 1 else ""
        about = "roughly " if one.rough else "about "
        late = one.first_text >= one.tokens
        if one.tokens == 1:
            text = "one token"
        elif late:
            text = "comes all at the end"
            if one.strategy.get("commit_after", 0) is None:
                text += "; commit_after: 1 lets it flow, and trades some of the search for it"
        else:
            text = (
                f"streams: the first after about {one.first_text} tokens, then at most about "
                f"{one.lag} behind what is being tried"
            )
        rows = [
            ("branches", f"{one.branches:,} partial answers grow at once{several}"),
            (
                "cost",
                f"{about}{one.rows_per_token:.1f} rows of the large model per token of the answer"
                f" (sampling: 1), {one.guided_per_token:.1f} of each guide",
            ),
            ("rounds", f"{about}{one.rounds:,} for {one.tokens:,} tokens, one after another"),
            ("text", text),
            ("estimated", "by a dry run: scores are random, no text ends before max_tokens"),
        ]
        self._section("strategy", str(one.strategy["type"]), rows)
        if fields:
            self._rows([("with", fields)])

    def _findings(self, diagnosis: Diagnosis) -> None:
        order = list(_STYLES)
        findings = sorted(diagnosis.findings, key=lambda one: order.index(one.level))
        if findings:
            self._line(Text("\nto know", "bold"))
        for one in findings:
            self._finding(one)

    def _finding(self, one: Finding) -> None:
        style = _STYLES[one.level]
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        # Lines of our own message: each was escaped when it was written.
        text = "\n".join(self._text(line) for line in one.text.splitlines())
        table.add_row(Text(self._marks[one.level], style), Text(f"{one.about}: {text}", style))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)

    def _verdict(self, diagnosis: Diagnosis) -> None:
        count = len(diagnosis.failures)
        if diagnosis.wrong:
            said, mark, style = "the config is wrong; correct it first", "failure", "bold red"
        elif count:
            things = "one thing" if count == 1 else f"{count} things"
            said, mark, style = f"an answer will fail: {things} to mend", "failure", "bold red"
        else:
            said, mark, style = "nothing speaks against an answer", "fine", "bold green"
            if diagnosis.loaded is not None and diagnosis.local:
                said += f"; models load in {diagnosis.loaded:.1f} s and are read exactly"
        self._line(Text(f"\nverdict: {self._marks[mark]} {said}", style))

    # Layout.

    def _section(self, name: str, what: str, rows: Iterable[tuple[str, str]]) -> None:
        self._line(Text(f"\n{name}", "bold") + Text(f"  {self._text(what)}" if what else ""))
        self._rows(rows)

    def _rows(self, rows: Iterable[tuple[str, str]]) -> None:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=_LABEL, no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in rows:
            table.add_row(Text(self._text(label), "cyan"), Text(self._text(value)))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)

    def _line(self, text: Text) -> None:
        self._console.print(text, highlight=False, soft_wrap=False, overflow="fold")

    def _text(self, text: str) -> str:
        return visible(text, self._ascii)


def _count(number: int) -> str:
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return str(number)
