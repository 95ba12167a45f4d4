"""Which model families work: every causal family of the installed transformers, tiny and random.

make families                        # all of them, minutes; writes docs/families.md
python -m tests.families llama rwkv  # some, printed only
"""

from __future__ import annotations

import functools
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from tqdm import tqdm

from tests.helpers import families, tiny
from tests.helpers.plain import FOREIGN, STRATEGIES, batched, generated, guided, searched
from w2s_chains import (
    Constraint,
    Expand,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    SamplingParams,
    UnsupportedModelError,
    W2SError,
)
from w2s_chains.backend.lm.causal_lm import CausalLM

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
PROMPTS = ("The movie was great and the plot was thin, but the acting was good", "A")
"""The first is longer than every window and chunk."""


CHECKS = {
    "exact": "increments, padding and branches = one plain forward (2e-3 nats)",
    "generate": "greedy text = `generate`",
    "batch": "a batch = its single calls: best-of-N, chunk beam 2,3,4, token search, steering",
    "other guides": "the same with guides of another vocabulary",
    "constrained": "an answer of a given form",
    "bfloat16": "loads and scores in half precision",
}
ROWS = {
    "shared": "siblings share a row",
    "own": "each partial answer has a row of its own",
    "state": "the same, with a recurrent state",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What was found out about one family.

    Attributes:
        kind: Its ``model_type``.
        rows: How siblings are read, a key of ``ROWS``; empty if the family is refused.
        checks: What each check found, by the keys of ``CHECKS``: "yes", or an error.
        refused: Why it does not load, or could not be built.
    """

    kind: str
    rows: str = ""
    checks: Mapping[str, str] = field(default_factory=dict[str, str])
    refused: str = ""

    @property
    def wrong(self) -> dict[str, str]:
        """The checks that failed."""
        return {name: found for name, found in self.checks.items() if found != "yes"}


def check(kind: str) -> Row:
    """Build a family as a tiny random model, and try what searches do with it."""
    make = functools.partial(families.tiny, kind)
    try:
        model = make()
    except Exception as error:  # any code of any architecture
        return Row(kind=kind, refused=f"not built: {_said(error)}")
    try:
        lm = CausalLM(model)
    except UnsupportedModelError as error:
        return Row(kind=kind, refused=_said(error))
    except Exception as error:  # any code of any architecture
        return Row(kind=kind, rows="crash", checks=dict.fromkeys(CHECKS, _said(error)))
    rows = "state" if lm.recurrent else "shared" if lm.can_branch else "own"
    runs = (
        lambda: searched(make(), PROMPTS),
        lambda: generated(make(), PROMPTS),
        lambda: batched(lambda: guided(make), PROMPTS, STRATEGIES),
        lambda: batched(lambda: guided(make, False), PROMPTS, FOREIGN),
        lambda: _constrained(make()),
        lambda: _halved(make()),
    )
    checks = {name: _tried(run) for name, run in zip(CHECKS, runs, strict=True)}
    return Row(kind=kind, rows=rows, checks=checks)


def _tried(run: Callable[[], None]) -> str:
    try:
        run()
    except Exception as error:  # any code of any architecture
        return _said(error)
    return "yes"


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, W2SError) else f"{type(error).__name__}: {text}"


def _constrained(model: Any) -> None:
    """An answer of a given form has that form."""
    proposer = HuggingFaceProposer(model, tiny.byte_tokenizer())
    ask = Expand(
        hypotheses=(Hypothesis.root("A"),),
        sampling=SamplingParams(max_tokens=8),
        constraint=Constraint.regex("(yes|no)"),
    )
    [[child]] = proposer.propose([ask])
    assert child.response in ("yes", "no")


def _halved(model: Any) -> None:
    """A guide in half precision loads, and scores."""
    guide = HuggingFaceGuide(model.to(torch.bfloat16), tiny.byte_tokenizer())
    [value] = guide.loglikelihood([Hypothesis.root("A").extend(" film")])
    assert -1000 < value < 0


def page(rows: Sequence[Row]) -> str:
    """Write the page of the documentation."""
    fine = [row for row in rows if not row.refused]
    exact = [row for row in fine if not row.wrong]
    lines = [
        "# Model families",
        "",
        f"All {len(rows)} causal families of transformers {transformers.__version__}, each as a "
        "tiny model with random weights of a large scale, or differences would vanish. Texts are "
        f"longer than windows and chunks of {families.WINDOW} tokens. `make families` wrote this.",
        "",
        f"**{len(exact)} are exact** in all columns, {len(fine) - len(exact)} load and differ "
        f"somewhere, {len(rows) - len(fine)} are refused or could not be built here.",
        "",
        *(f"* *{name}*: {meaning}" for name, meaning in CHECKS.items()),
        "* *rows*: " + "; ".join(f"{name}: {meaning}" for name, meaning in ROWS.items()),
        "",
        "| " + " | ".join(("family", "rows", *CHECKS)) + " |",
        "| --- |" + " :---: |" * (len(CHECKS) + 1),
    ]
    for row in fine:
        cells = ["yes" if row.checks[name] == "yes" else "no" for name in CHECKS]
        lines.append("| " + " | ".join((f"`{row.kind}`", row.rows, *cells)) + " |")
    lines += ["", "## What differs", ""] if len(exact) < len(fine) else []
    for row in fine:
        lines += [f"* `{row.kind}`, {name}: {_short(why)}" for name, why in row.wrong.items()]
    lines += [
        "",
        "## What is refused",
        "",
        "A refusal comes at load, before anything is sampled.",
        "",
    ]
    lines += [f"* `{row.kind}`: {_short(row.refused)}" for row in rows if row.refused]
    return "\n".join(lines) + "\n"


def _short(text: str) -> str:
    short = textwrap.shorten(text, 200, placeholder=" ...")
    return re.sub(r"[<>|*_`\[\]]", lambda found: "\\" + found[0], short)


def main(
    kinds: Annotated[list[str] | None, typer.Argument(help="Families; all by default")] = None,
    write: Annotated[bool, typer.Option(help="Write docs/families.md")] = False,
) -> None:
    """Check families, and print or write what was found."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    rows: list[Row] = []
    for kind in (progress := tqdm(kinds or families.KINDS, disable=None)):
        progress.set_description(kind)
        rows.append(check(kind))
    if write:
        PAGE.write_text(page(rows), encoding="utf-8")
    else:
        print(page(rows))


if __name__ == "__main__":
    typer.run(main)
