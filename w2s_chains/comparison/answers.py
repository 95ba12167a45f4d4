"""Answer a batch of prompts with one config, and let rewards judge the answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait

from w2s_chains.backend.loading.local_model import LocalModel
from w2s_chains.comparison.rows import Judgement, Row, with_judgements
from w2s_chains.core.events import Event, Finished
from w2s_chains.engine.job import Job
from w2s_chains.errors import ConfigError, ScorerError, shown
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.rewards import Reward, loglikelihood_per_token
from w2s_chains.rewards.base import VALUES
from w2s_chains.values import as_items, as_real, is_text


def answer(
    llm: W2SLLM,
    config: str,
    seed: int,
    prompts: Mapping[int, str],
    listener: Callable[[Event], None] | None = None,
) -> list[Row]:
    """Answer each prompt once; if one fails, the others still get their answers.

    Args:
        llm: The config.
        config: The config's name.
        seed: The seed of every search.
        prompts: The prompts, by their place in the file.
        listener: Called with every event.

    Returns:
        One row per prompt, in order; a row without an answer has the error.

    Raises:
        ConfigError: The config cannot work with any prompt.
    """
    began = time.perf_counter()
    llm = llm.model_copy(update={"seed": seed})
    jobs: dict[int, Job] = {}
    outcomes: dict[int, Finished | Exception] = {}
    for index, prompt in prompts.items():
        try:
            [jobs[index]] = llm.jobs([prompt])
        except ConfigError:
            raise
        except Exception as error:
            outcomes[index] = error
    running = llm.engine.submit(list(jobs.values()), listener)
    try:
        wait([one.future for one in running])
    finally:
        for one in running:
            one.cancel()
    for index, one in zip(jobs, running, strict=True):
        error = one.future.exception()
        outcomes[index] = error if isinstance(error, Exception) else one.future.result()
    rows = [_row(config, seed, i, prompt, outcomes[i]) for i, prompt in prompts.items()]
    rows = _with_loglikelihoods(llm, rows)
    seconds = (time.perf_counter() - began) / len(rows)
    return [row.model_copy(update={"seconds": round(seconds, 3)}) for row in rows]


def _row(config: str, seed: int, index: int, prompt: str, outcome: Finished | Exception) -> Row:
    row = Row(config=config, seed=seed, index=index, prompt=prompt)
    if isinstance(outcome, Exception):
        return row.model_copy(update={"errors": {"answer": error_text(outcome)}})
    if not is_text(outcome.text):
        error = "ValueError: the answer has half a surrogate pair, which is no character"
        return row.model_copy(update={"errors": {"answer": error}})
    return row.model_copy(
        update={
            "text": outcome.text,
            "guide_score": outcome.score,
            "kl": outcome.kl,
            "read_tokens": outcome.read_tokens,
            "rounds": outcome.rounds,
            "proposed_tokens": outcome.proposed_tokens,
            "guide_tokens": outcome.guide_tokens,
            "guide_flops_ratio": outcome.guide_flops_ratio,
            "completion_tokens": outcome.completion_tokens,
            "finish_reason": outcome.finish_reason,
        }
    )


def _with_loglikelihoods(llm: W2SLLM, rows: list[Row]) -> list[Row]:
    """Add loglikelihoods under the frozen model, if that runs in this process."""
    if not isinstance(llm.proposer, LocalModel):
        return rows
    whole = [row for row in rows if row.text is not None]
    texts = [row.text or "" for row in whole]
    values = loglikelihood_per_token(llm.proposer, [row.prompt for row in whole], texts)
    found = {row.key: value for row, value in zip(whole, values, strict=True)}
    return [row.model_copy(update={"loglikelihood": found.get(row.key)}) for row in rows]


def error_text(error: BaseException) -> str:
    """Return an error as text for a row, which must be UTF-8."""
    return f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()


def unjudged(reward: Reward, rows: Sequence[Row]) -> list[Row]:
    """Select the answers that this reward has not judged yet, or failed on."""
    return [row for row in rows if row.text is not None and row.rewards.get(reward.column) is None]


def judge(reward: Reward, rows: Sequence[Row]) -> list[Judgement]:
    """Judge the answers; return one judgement per row, in order, with the error if it failed."""
    return [
        Judgement(
            config=row.config,
            seed=row.seed,
            index=row.index,
            reward=reward.column,
            value=None if isinstance(outcome, str) else outcome,
            error=outcome if isinstance(outcome, str) else None,
        )
        for row, outcome in zip(rows, _outcomes(reward, rows), strict=True)
    ]


def judged_at_once(rewards: Iterable[Reward], rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the values of those rewards that need no model."""
    judged = list(rows)
    for reward in rewards:
        if reward.quick:
            found = {one.key: one for one in judge(reward, unjudged(reward, judged))}
            judged = [
                with_judgements(row, [found[row.key]] if row.key in found else []) for row in judged
            ]
    return judged


def _outcomes(reward: Reward, rows: Sequence[Row]) -> list[float | str]:
    answers = [row.text or "" for row in rows]
    try:
        found: object = reward.score([row.prompt for row in rows], list(answers))
        items = as_items(found, len(answers), f"the reward {reward.column!r}", VALUES)
    except Exception as error:
        if len(rows) == 1:
            return [error_text(error)]
        return [outcome for row in rows for outcome in _outcomes(reward, [row])]
    return [_outcome(reward, item) for item in items]


def _outcome(reward: Reward, item: object) -> float | str:
    value = as_real(item)
    if value is not None and math.isfinite(value):
        return value
    return error_text(
        ScorerError(
            f"the reward {reward.column!r} gave {shown(item)}; a reward must be a finite number"
        )
    )
