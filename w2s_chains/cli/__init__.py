"""The command line ``w2s``; each command has a module of its own."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from w2s_chains.cli.compare import compare, tune
from w2s_chains.cli.doctor import doctor
from w2s_chains.cli.init import init, schema
from w2s_chains.cli.run import chat, run
from w2s_chains.cli.score import score
from w2s_chains.cli.serve import serve

app = typer.Typer(
    help="Weak-to-strong search: steer a large frozen language model with two small ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # rich's boxes cut words where the terminal is narrow
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Weak-to-strong search: steer a large frozen language model with two small ones."""
    if not sys.stderr.isatty():  # no library draws a bar there; read when it is imported
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if version:
        print(version_of("w2s_chains"))
        raise typer.Exit


for command in (init, doctor, run, chat, serve, compare, tune, score, schema):
    app.command()(command)
