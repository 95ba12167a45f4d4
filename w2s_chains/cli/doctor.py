"""``w2s doctor``: what a config will do, said before any answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from w2s_chains.cli.options import told_errors


def doctor(
    config: Annotated[Path, typer.Argument(help="The config.")],
    prompt: Annotated[
        str | None, typer.Option(help="The prompt to show as each model reads it.")
    ] = None,
    load: Annotated[
        bool | None,
        typer.Option(
            "--load/--no-load",
            help="Also load the models and check that a search reads them exactly; by default if "
            "they are small, here, and nothing else has failed.",
        ),
    ] = None,
    servers: Annotated[
        bool,
        typer.Option(help="Ask servers what they can do, with about a dozen calls of few tokens."),
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for each call of a server.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Say what a config will do, before any answer.

    And what is missing for it, with the remedy.

    Ends with 0 if nothing speaks against an answer, 1 if something will fail, 2 if the config is
    wrong.
    """
    from rich.console import Console

    from w2s_chains.doctor import diagnose
    from w2s_chains.doctor.report import DiagnosisReport

    with told_errors():
        found = diagnose(config, prompt, load=load, timeout=timeout if servers else None)
        if as_json:
            print(json.dumps(found.to_json(), indent=2))
        else:
            DiagnosisReport(Console(markup=False, emoji=False)).print(found)
    raise typer.Exit(found.exit_code)
