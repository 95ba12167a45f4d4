"""``diagnose``: look at every part of a config, without an answer and mostly without weights."""

from __future__ import annotations

from pathlib import Path

from w2s_chains.config.files import load_config
from w2s_chains.core.asks import Expand
from w2s_chains.doctor.diagnosis import Diagnosis
from w2s_chains.doctor.dry_run import dry_run
from w2s_chains.errors import ConfigError, W2SError


def diagnose(
    path: str | Path,
    prompt: str | None = None,
    *,
    load: bool | None = None,
    timeout: float | None = 30.0,
) -> Diagnosis:
    """Say what a config will do.

    Args:
        path: The config.
        prompt: The prompt to render; by default a sentence about films.
        load: Whether to load models into this process, too, which checks that a search reads them
            exactly; by default if their weights are here, small, and nothing else has failed.
        timeout: Seconds to wait for each call of a server; None calls none.
    """
    diagnosis = Diagnosis(config=str(path))
    try:
        config = load_config(path)
        config.check()
    except ConfigError as error:
        diagnosis.wrong = True
        diagnosis.tell("failure", "config", error)
        return diagnosis
    from w2s_chains.doctor.examine import examine, load_small  # brings torch
    from w2s_chains.doctor.memory import add_memory
    from w2s_chains.doctor.rendering import sample_prompt

    kind = diagnosis.type = config.type or "llm"
    try:
        sample = sample_prompt(kind, prompt)
    except W2SError as error:
        diagnosis.tell("failure", "prompt", error)
        return diagnosis
    diagnosis.prompt = sample.plain_text
    diagnosis.max_tokens = config.generation.max_tokens
    asks: list[Expand] = []
    try:
        diagnosis.effort, asks = dry_run(
            config.strategy, config.generation.max_tokens, config.generation.n
        )
    except W2SError as error:
        diagnosis.tell("warning", "strategy", error)
    facts = examine(diagnosis, config, sample, asks, timeout)
    add_memory(diagnosis, facts)
    load_small(diagnosis, config, facts, sample, load)
    return diagnosis
