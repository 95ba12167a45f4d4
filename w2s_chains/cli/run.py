"""``w2s run`` and ``w2s chat``: answers in the terminal, as the search commits them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from w2s_chains.cli.options import check_trace_file, load_model, told_errors
from w2s_chains.errors import ConfigError, PromptError

Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a field of the config, such as strategy.width=2, or a section, such as "
        "strategy=sampling; the value is YAML. Repeatable.",
    ),
]


def run(
    config: Annotated[Path, typer.Argument(help="The config (YAML).")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The prompt; - for the whole of stdin. Without it each line of stdin is a prompt."
        ),
    ] = None,
    changes: Changes = None,
    system: Annotated[
        str | None, typer.Option(help="With a chat config: what the system message says.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Draw the candidates while the search runs.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Write the tree of the search to this file, .html or .json."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print each answer with score and costs, as a line of JSON."),
    ] = False,
) -> None:
    """Answer a prompt, and print text as the search commits it.

    Only answers go to stdout. Each ends with a line end, and --- stands between several.
    """
    with told_errors():
        if show and not sys.stderr.isatty():
            raise ConfigError(
                "--show draws on a terminal, and stderr is none; leave it out, or use --trace FILE"
            )
        if trace is not None:
            check_trace_file(trace)
            if prompt is None:
                raise ConfigError(
                    "--trace writes the tree of one prompt; give it as an argument, or - to read "
                    "it from stdin"
                )
        from w2s_chains.config.files import load_config  # brings the sections, a second's work

        found = load_config(config, changes=changes or ())
        if system is not None and found.type != "chat":
            raise ConfigError(
                f"--system is for chats, and {config} is of type llm; add --set type=chat"
            )
        if (show or trace is not None) and found.generation.n > 1:
            raise ConfigError(
                f"--show and --trace are for one answer, and generation.n is {found.generation.n}; "
                "add --set generation.n=1"
            )
        if prompt is not None:
            prompt = _given(prompt)
        model = load_model(found)
        from w2s_chains.cli.terminal.answers import Answers
        from w2s_chains.cli.terminal.prompts import is_typed

        answers = Answers(model, system=system, as_json=as_json, show=show, trace=trace)
        if prompt is not None:
            answers.one(prompt)
        elif is_typed():
            answers.typed()
        else:
            answers.piped()


def _given(prompt: str) -> str:
    """Return the prompt of the command line.

    Raises:
        PromptError: It has no text, or stdin is not UTF-8.
    """
    from w2s_chains.cli.terminal.prompts import whole_stdin

    text = whole_stdin() if prompt == "-" else prompt
    if not text.strip():
        where = "stdin has no text" if prompt == "-" else f"it is {prompt!r}"
        raise PromptError(f"the prompt is empty: {where}; give some text")
    return text


def chat(
    config: Annotated[Path, typer.Argument(help="The config (YAML).")],
    changes: Changes = None,
    system: Annotated[str | None, typer.Option(help="What the system message says.")] = None,
) -> None:
    """Keep a conversation; models read it through their chat templates.

    Lines that begin with / are commands; /help lists them. Ctrl-C stops an answer, Ctrl-D ends.
    """
    with told_errors():
        from w2s_chains.config.files import load_config

        found = load_config(config, "chat", changes or ())
        if found.type != "chat":
            raise ConfigError(
                f"{config} is of type {found.type}, whose models read single prompts; add --set "
                "type=chat for a conversation, or use w2s run"
            )
        from w2s_chains.cli.terminal.conversation import Conversation

        Conversation(config, changes or (), found, system).hold()
