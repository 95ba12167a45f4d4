"""``w2s compare`` and ``w2s tune``: configs on the same prompts, and the best one for a task."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from w2s_chains.cli.options import given, tell_to_type, told_errors, told_news


def compare(
    configs: Annotated[
        list[Path],
        typer.Argument(help="A study (YAML with a key 'configs'), or one or more configs."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for rows, table and plots.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="JSON, JSON lines, CSV, or text with a prompt per line; - reads JSON lines or "
            "plain lines from standard input, as the first line tells."
        ),
    ] = None,
    prompt_field: Annotated[
        str | None, typer.Option(help="Field or column that holds the prompt.")
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="With one config: a strategy to compare on it: a type such as sampling, YAML "
            "such as '{type: best_of_n, n: 16}', or a YAML file with a list or names. Repeatable."
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
    traces: Annotated[
        int,
        typer.Option(
            min=0, help="Show the searches behind so many of the first prompts, as pages to open."
        ),
    ] = 0,
    progress: Annotated[bool, typer.Option(help="Show a progress bar with the time left.")] = True,
) -> None:
    """Answer the same prompts with several configs, and compare.

    If it is killed or interrupted, run the same command again to continue.
    """
    from w2s_chains.comparison import compare as run_comparison

    again = f"run the same command again to continue from {out}"
    with told_errors(again), told_news("w2s_chains.comparison"):
        tell_to_type(prompts)
        found = run_comparison(
            list(configs),
            prompts,
            out=out,
            strategies=given(strategy, "strategy"),
            rewards=given(reward, "reward"),
            seeds=seed or None,
            limit=limit,
            baseline=baseline,
            batch_size=batch_size,
            plots=plots,
            alpaca_eval=alpaca_eval,
            traces=traces,
            progress=progress and sys.stderr.isatty(),
            prompt_field=prompt_field,
        )
    failed = [row for row in found.rows if row.errors]
    unanswered = sum(row.text is None for row in found.rows)
    if unanswered < len(found.rows):
        found.print()
    if failed:
        first = failed[0]
        name, error = next(iter(first.errors.items()))
        print(
            f"{len(failed)} of {len(found.rows)} answers have an error, for example {name!r} of "
            f"config {first.config!r}, prompt {first.index}: {error}",
            file=sys.stderr,
        )
    names = ", ".join(str(file.relative_to(found.folder)) for file in found.files)
    print(f"In {found.folder}: {names}")
    if unanswered == len(found.rows):
        raise typer.Exit(1)


def tune(
    config: Annotated[Path, typer.Argument(help="The config to improve.")],
    prompts: Annotated[
        Path,
        typer.Option(
            help="JSON, JSON lines, CSV, text with a prompt per line, or -, as for compare; 24 or "
            "more."
        ),
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
    """Find the search that gains most for its price, for your task.

    If it is killed or interrupted, run the same command again to continue.
    """
    from w2s_chains.tuning import tune as run_tuning

    with told_errors(f"run the same command again to continue from {out}"):
        tell_to_type(prompts)
        found = run_tuning(
            config,
            prompts,
            out=out,
            rewards=given(reward, "reward"),
            strategies=given(strategy, "strategy"),
            minutes=minutes,
            max_repetition=max_repetition,
            max_loglikelihood_loss=max_loglikelihood_loss,
            seed=seed,
            prompt_field=prompt_field,
            batch_size=batch_size,
            plots=plots,
            progress=progress and sys.stderr.isatty(),
        )
    found.confirmation.summary.print()
    print(found.verdict)
    print(f"Its config: {out / 'recommended.yaml'}; what it rests on: {out / 'tuning.md'}")
