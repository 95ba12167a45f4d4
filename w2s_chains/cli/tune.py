"""``w2s tune``: the search that gains most for what is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from w2s_chains.cli.options import given, tell_to_type, told_errors


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
    """Find the search that gains most for what the large model reads, and write its config.

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
