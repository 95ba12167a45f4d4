"""The command line ``w2s``; each command has a module of its own."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated

import typer

from w2s_chains.cli.compare import compare
from w2s_chains.cli.schema import schema
from w2s_chains.cli.score import score
from w2s_chains.cli.serve import serve
from w2s_chains.cli.tune import tune

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
    if version:
        print(version_of("w2s_chains"))
        raise typer.Exit


for command in (compare, tune, serve, score, schema):
    app.command()(command)
