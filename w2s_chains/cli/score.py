"""``w2s score``: what the guides of a config think of given texts, token by token."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from w2s_chains.cli.options import told_errors
from w2s_chains.errors import ConfigError, PromptError, did_you_mean, shown

if TYPE_CHECKING:
    from w2s_chains.config.sections import W2SConfig
    from w2s_chains.core.parts import Scorer
    from w2s_chains.core.prompts import Prompt
    from w2s_chains.engine import TextScore


def score(
    config: Annotated[Path, typer.Argument(help="The config whose guides are asked.")],
    text: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts that continue the prompt, letter by letter: begin one with a space where "
            "a space belongs. '-' reads one text from standard input."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The prompt of all texts that have none of their own.")
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option(
            help="A file of texts, or '-': JSON lines, JSON or CSV with 'text' or 'answer' and "
            "'prompt' (text, or chat messages), or a text per line."
        ),
    ] = None,
    finished: Annotated[
        bool | None,
        typer.Option(
            "--finished/--unfinished",
            help="Whether the end of the turn after a text counts. By default it does, unless the "
            "file says otherwise (finish_reason).",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print an object per text, as JSON lines.")
    ] = False,
) -> None:
    """Show how much the tuned guide prefers a text, token by token.

    Only the guides are loaded, not the large model. Tokens are coloured on a terminal, and listed
    elsewhere, or if NO_COLOR is set.
    """
    with told_errors():
        from w2s_chains.config.files import load_config

        known = load_config(config)
        if known.guides is None:
            raise ConfigError(f"{config} has no guides, and it is guides that judge; add some")
        known.check()
        given = list(_given(text or [], texts, prompt))
        if not given:
            raise ConfigError("there is no text to score; give one, or a file with --texts")
        _score(known, given, finished, as_json)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A text to score.

    Attributes:
        place: Where it comes from, for messages.
        prompt: Its prompt: a text, chat messages, or None for the empty text.
        text: The text.
        ended: Whether it ended its turn; None if that is not known.
    """

    place: str
    prompt: str | Sequence[Any] | None
    text: str
    ended: bool | None = None


_TEXT = ("text", "answer")
_FIELDS = (*_TEXT, "prompt", "finish_reason")


def _given(arguments: Sequence[str], file: str | None, prompt: str | None) -> Iterator[Given]:
    from w2s_chains.comparison.prompts import read_records, records_in, standard_input

    if file == "-" and "-" in arguments:
        raise ConfigError("standard input can be read once: as a text, or with --texts")
    for at, text in enumerate(arguments, 1):
        place = f"text {at}"
        if text == "-":
            place, text = "standard input", standard_input().removesuffix("\n")
        yield _checked(Given(place=place, prompt=prompt, text=text))
    if file is None:
        return
    found = (
        records_in(standard_input(), "standard input", _FIELDS)
        if file == "-"
        else read_records(file, "texts", _FIELDS)
    )
    for place, record in found:
        yield _checked(_from_record(place, record, prompt))


def _from_record(place: str, record: object, prompt: str | None) -> Given:
    if not isinstance(record, Mapping):
        return Given(place=place, prompt=prompt, text=cast("str", record))
    fields = cast("Mapping[str, Any]", record)
    names = [name for name in _TEXT if name in fields]
    if not names:
        raise ConfigError(f"{place}: no field 'text' or 'answer'{did_you_mean('text', fields)}")
    if len(names) > 1:
        raise ConfigError(f"{place}: both 'text' and 'answer' are given; keep one of them")
    own = fields.get("prompt")
    if own is None and prompt is None:
        raise ConfigError(
            f"{place}: no field 'prompt'{did_you_mean('prompt', fields)}; or give --prompt"
        )
    reason = fields.get("finish_reason") or None
    if reason not in (None, "eos", "stop", "length"):
        raise ConfigError(
            f"{place}: finish_reason is {shown(reason)}; it must be eos, stop or length"
        )
    return Given(
        place=place,
        prompt=prompt if own is None else own,
        text=fields[names[0]],
        ended=None if reason is None else reason == "eos",
    )


def _checked(given: Given) -> Given:
    from w2s_chains.values import is_text

    text, prompt = cast("object", given.text), cast("object", given.prompt)
    if not is_text(text) or not text.strip():
        raise ConfigError(
            f"{given.place}: a text must be text that is not blank, but this is {shown(text)}"
        )
    if prompt is not None and not is_text(prompt) and not isinstance(prompt, list):
        raise ConfigError(
            f"{given.place}: a prompt must be text or a list of chat messages, but this is "
            f"{shown(prompt)}"
        )
    return given


def _prompt(given: Given) -> Prompt:
    from w2s_chains.core.prompts import Prompt

    if given.prompt is None or isinstance(given.prompt, str):
        return Prompt(text=given.prompt or "")
    from w2s_chains.langchain.messages import as_prompt

    try:
        return as_prompt(given.prompt)
    except PromptError as error:
        raise PromptError(f"{given.place}: {error}") from error


def _score(config: W2SConfig, given: Sequence[Given], finished: bool | None, as_json: bool) -> None:
    prompts = [_prompt(one) for one in given]
    assert config.guides is not None
    chats = any(getattr(spec, "chat", False) for spec in config.guides.specs())
    if chats and any(one.prompt is None for one in given):
        raise ConfigError("the guides read chats, which begin with a question; give --prompt")
    from w2s_chains.cli.terminal.heat import Report
    from w2s_chains.core.contracts import BaseGuidePair
    from w2s_chains.engine.texts import TOGETHER, score_texts
    from w2s_chains.guides.pair import GuidePair

    pair = GuidePair.from_guides(config.guides)
    try:
        BaseGuidePair.of(pair).check_token_scores()
    except ConfigError as error:
        print(f"Only totals: {error}", file=sys.stderr)
    scorer = _scorer(config, pair)
    report = Report()
    for begin in range(0, len(given), TOGETHER):
        part = slice(begin, begin + TOGETHER)
        found = score_texts(
            pair,
            prompts[part],
            [one.text for one in given[part]],
            [_ended(one, finished) for one in given[part]],
            scorer=scorer,
            places=[one.place for one in given[part]],
        )
        for one, scored in zip(given[part], found, strict=True):
            if as_json:
                print(json.dumps(as_object(one, scored), allow_nan=False))
            else:
                report.show(one.place, scored)


def _ended(given: Given, finished: bool | None) -> bool:
    if finished is not None:
        return finished
    return given.ended is not False


def _scorer(config: W2SConfig, pair: Any) -> Scorer | None:
    """Return the config's scorer if it says more than the log-ratio and asks only the guides."""
    from w2s_chains.config.sections import Unloaded
    from w2s_chains.core.parts import Parts
    from w2s_chains.scorers import LogRatioConfig

    scoring = config.scoring
    if scoring is None or scoring == LogRatioConfig():
        return None
    # Tokens are counted by the large model, which is not here.
    if isinstance(scoring, LogRatioConfig) and not (scoring.base_weight or scoring.per_token):
        return scoring.build_from(Parts(proposer=Unloaded(), guides=pair))
    print(
        f"The config's scorer {scoring.type!r} is not shown, since it needs more than the guides.",
        file=sys.stderr,
    )
    return None


def as_object(given: Given, found: TextScore) -> dict[str, Any]:
    tokens = found.tokens
    return {
        "prompt": given.prompt or "",
        "text": found.text,
        "finished": found.ended,
        "log_ratio": _number(found.ratio),
        "tuned": _number(found.tuned),
        "untuned": _number(found.untuned),
        **({} if found.score is None else {"score": _number(found.score)}),
        "tokens": tokens
        and [
            {"text": text, "tuned": _number(a), "untuned": _number(b), "log_ratio": _number(a - b)}
            for text, a, b in zip(tokens.texts, tokens.tuned, tokens.untuned, strict=True)
        ],
    }


def _number(value: float) -> float | None:
    """Return what JSON can say; it has no infinity."""
    return value if math.isfinite(value) else None
