"""The command line ``w2s``: compare configs, tune one, print the JSON schema of configs."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from w2s_chains.errors import ConfigError, W2SError, shown
from w2s_chains.user_files import parse_yaml, read_text

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


@app.command()
def compare(
    configs: Annotated[
        list[Path],
        typer.Argument(help="A study (YAML with a key 'configs'), or one or more configs."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for rows, table and plots.")],
    prompts: Annotated[
        Path | None, typer.Option(help="JSON, JSON lines, CSV, or text with a prompt per line.")
    ] = None,
    prompt_field: Annotated[
        str | None, typer.Option(help="Field or column that holds the prompt.")
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="With one config: a strategy to compare on it, as YAML such as "
            "'{type: best_of_n, n: 16}', or a YAML file with a list or names. Repeatable."
        ),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="A judge: a type such as vader, YAML such as '{type: length}', or a YAML file "
            "with a list. Repeatable."
        ),
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Answer every prompt with this seed. Repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many prompts, from the start.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The config to compare the others with; by default the first."),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1, help="Partial answers that grow together: W*K of a beam count for each prompt."
        ),
    ] = 256,
    plots: Annotated[bool, typer.Option(help="Draw plots; needs matplotlib.")] = True,
    alpaca_eval: Annotated[
        bool, typer.Option("--alpaca-eval", help="Also write the JSON that alpaca_eval reads.")
    ] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar with the time left.")] = True,
) -> None:
    """Answer the same prompts with every config, judge the answers, and compare.

    If it is killed or interrupted, run the same command again to continue.
    """
    from w2s_chains.comparison import compare as run_comparison

    try:
        found = run_comparison(
            list(configs),
            prompts,
            out=out,
            strategies=_given(strategy, "strategy"),
            rewards=_given(reward, "reward"),
            seeds=seed or None,
            limit=limit,
            baseline=baseline,
            batch_size=batch_size,
            plots=plots,
            alpaca_eval=alpaca_eval,
            progress=progress and sys.stderr.isatty(),
            prompt_field=prompt_field,
        )
    except W2SError as error:
        _stop(str(error), 2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        _stop(f"interrupted; run the same command again to continue from {out}", 130)
    failed = [row for row in found.rows if row.errors]
    unanswered = sum(row.text is None for row in found.rows)
    if unanswered < len(found.rows):
        found.summary.print()
    if failed:
        first = failed[0]
        name, error = next(iter(first.errors.items()))
        print(
            f"{len(failed)} of {len(found.rows)} answers have an error, for example {name!r} of "
            f"config {first.config!r}, prompt {first.index}: {error}",
            file=sys.stderr,
        )
    print(f"Rows, table and plots: {found.folder}")
    if unanswered == len(found.rows):
        raise typer.Exit(1)


@app.command()
def tune(
    config: Annotated[Path, typer.Argument(help="The config to improve.")],
    prompts: Annotated[
        Path, typer.Option(help="JSON, JSON lines, CSV, or text with a prompt per line; 24 or more")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the recommendation and all behind it.")],
    minutes: Annotated[float, typer.Option(help="The time to spend.")] = 10.0,
    prompt_field: Annotated[
        str, typer.Option(help="Field or column that holds the prompt.")
    ] = "prompt",
    reward: Annotated[
        list[str] | None,
        typer.Option(
            help="A judge, as for compare; the first is maximised. By default the guides' own "
            "log-ratio is. Repeatable."
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(help="A strategy to try instead of the standard ones, as for compare."),
    ] = None,
    max_repetition: Annotated[
        float, typer.Option(help="Most repetition above plain sampling's, as a share of words.")
    ] = 0.05,
    max_loglikelihood_loss: Annotated[
        float,
        typer.Option(help="Most nats per token that the frozen model may find an answer worse."),
    ] = 0.15,
    seed: Annotated[int, typer.Option(help="Seed of searches and of the prompts' order.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="As for compare.")] = 256,
    plots: Annotated[bool, typer.Option(help="Draw plots; needs matplotlib.")] = True,
    progress: Annotated[bool, typer.Option(help="Show progress bars.")] = True,
) -> None:
    """Find the search that gains most for what the large model reads, and write its config.

    If it is killed or interrupted, run the same command again to continue.
    """
    from w2s_chains.tuning import tune as run_tuning

    try:
        found = run_tuning(
            config,
            prompts,
            out=out,
            rewards=_given(reward, "reward"),
            strategies=_given(strategy, "strategy"),
            minutes=minutes,
            max_repetition=max_repetition,
            max_loglikelihood_loss=max_loglikelihood_loss,
            seed=seed,
            prompt_field=prompt_field,
            batch_size=batch_size,
            plots=plots,
            progress=progress and sys.stderr.isatty(),
        )
    except W2SError as error:
        _stop(str(error), 2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        _stop(f"interrupted; run the same command again to continue from {out}", 130)
    found.confirmation.summary.print()
    print(found.verdict)
    print(f"Its config: {out / 'recommended.yaml'}; what it rests on: {out / 'tuning.md'}")


@app.command()
def schema() -> None:
    """Print the JSON schema of configs, for editors; it includes types of installed packages.

    Write it to a file, w2s schema > w2s.schema.json, and begin a config with the line
    # yaml-language-server: $schema=w2s.schema.json
    """
    from w2s_chains.config.json_schema import config_schema

    try:
        print(json.dumps(config_schema(), indent=2, ensure_ascii=False))
    except W2SError as error:
        _stop(str(error), 2)


def _given(values: list[str] | None, role: str) -> Any:
    """Parse the values of an option: return a list, or a mapping if a file gives names.

    Raises:
        ConfigError: One is broken YAML, or two have the same name.
    """
    if not values:
        return None
    listed: list[Any] = []
    named: dict[str, Any] = {}
    for value in values:
        is_file = Path(value).suffix in (".yaml", ".yml")
        text = read_text(value, role) if is_file else value
        try:
            parsed: Any = parse_yaml(text, value if is_file else f"--{role}")[1]
        except ConfigError as error:
            raise ConfigError(f"{shown(value)} is not YAML that can be used: {error}") from error
        if isinstance(parsed, list):
            listed += parsed
        elif isinstance(parsed, dict) and "type" not in parsed and is_file:
            if twice := sorted(map(str, named.keys() & parsed.keys())):
                raise ConfigError(f"two of --{role} are called {twice[0]!r}; rename one")
            named |= parsed
        else:
            listed.append(parsed)
    if named and listed:
        raise ConfigError(f"give each {role} a name, or none of them")
    return named or listed


def _stop(message: str, code: int) -> NoReturn:
    """Print an error and end the command."""
    print(f"Error: {message}", file=sys.stderr)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
