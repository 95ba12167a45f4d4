"""``compare``: run a comparison, first the answers, then the rewards, then table and plots."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from w2s_chains.comparison.answers import answer, judge, unjudged
from w2s_chains.comparison.checks import Models, check_plots, check_study
from w2s_chains.comparison.plan import remember
from w2s_chains.comparison.rows import (
    JsonLines,
    Judgement,
    Key,
    Row,
    cannot_write,
    group_judgements,
    in_order,
    latest,
    with_judgements,
    write_alpaca_eval,
    write_file,
)
from w2s_chains.comparison.study import Entry, Study, make_study
from w2s_chains.comparison.summary import Summary, summarize
from w2s_chains.core.events import Event, Progressed
from w2s_chains.errors import ConfigError, shown
from w2s_chains.langchain.generation import bar_of
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.rewards import Repetition

ROWS, JUDGED, PLAN = "rows.jsonl", "judged.jsonl", "plan.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The results of a comparison.

    Attributes:
        rows: One per answer, ordered by config, seed and prompt.
        summary: The table.
        folder: The folder with all files.
    """

    rows: tuple[Row, ...]
    summary: Summary
    folder: Path


def compare(
    configs: Study | str | Path | Mapping[str, Any] | Sequence[str | Path],
    prompts: str | Path | Sequence[str] | None = None,
    *,
    out: str | Path,
    strategies: Mapping[str, Any] | Sequence[Any] | None = None,
    rewards: Sequence[Any] | None = None,
    seeds: Sequence[int] | None = None,
    limit: int | None = None,
    prompt_field: str | None = None,
    baseline: str | None = None,
    batch_size: int = 256,
    plots: bool = True,
    alpaca_eval: bool = False,
    progress: bool = False,
) -> Comparison:
    """Answer the same prompts with every config and judge the answers with the same rewards.

    Answers are written batch by batch. Call it again with the same ``out`` to continue after an
    interruption: nothing that is finished is computed again. You may add configs, seeds and
    rewards that way; answers and rewards that failed are tried again.

    Args:
        configs: A study, or its YAML file; or configs by name (file, mapping or ``W2SLLM``); or
            config files.
        prompts: A file (JSON, JSON lines, CSV or text), or the prompts themselves.
        out: The folder for rows, table and plots.
        strategies: Strategies to compare on one config.
        rewards: The judges: type names, mappings with a ``type``, ``Reward`` objects, or functions
            ``(prompts, answers) -> list[float]``.
        seeds: The seeds; every prompt is answered once with each of them.
        limit: Use only this many prompts, from the start.
        prompt_field: Field or column of the file that holds the prompt.
        baseline: The config to compare the others with; by default the first.
        batch_size: Partial answers that grow together. A batch has ``batch_size / branches``
            prompts, where a beam has W*K branches; it is written when all of it is finished.
        plots: Draw plots; needs matplotlib.
        alpaca_eval: Also write the JSON files that ``alpaca_eval`` reads.
        progress: Show a progress bar.

    Returns:
        Rows and table. The folder has rows.jsonl, summary.md, summary.csv, and the plots.

    Raises:
        ConfigError: Something is missing or not valid, or ``out`` holds another comparison.
        W2SError: A file cannot be written; what was finished is kept.
    """
    study = make_study(
        configs,
        strategies,
        prompts=prompts,
        prompt_field=prompt_field,
        rewards=rewards,
        seeds=seeds,
        limit=limit,
    )
    texts = study.read_prompts()
    baseline = _baseline(study, baseline)
    if isinstance(batch_size, bool) or not isinstance(cast("object", batch_size), Integral):
        raise ConfigError(f"batch_size is {shown(batch_size)}; it must be a whole number")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
    check_plots(plots)
    check_study(study, texts[0])
    folder = Path(out)
    with _alone_in(folder):
        run = _Run(study, texts, folder, progress)
        run.answer_all(batch_size)
        run.judge_all()
        rows = run.finish()
        columns = [reward.column for reward in study.rewards]
        summary = summarize(rows, list(study.configs), columns, baseline)
        write_file(folder / "summary.md", summary.markdown().encode())
        write_file(folder / "summary.csv", summary.csv().encode())
        if alpaca_eval:
            write_alpaca_eval(folder / "alpaca_eval", rows)
        if plots:
            from w2s_chains.comparison.plots import draw_all

            draw_all(rows, summary, folder)
    return Comparison(rows=tuple(rows), summary=summary, folder=folder)


def _baseline(study: Study, baseline: str | None) -> str:
    if baseline is None:
        return next(iter(study.configs))
    if baseline not in study.configs:
        raise ConfigError(
            f"no config is called {shown(baseline)}; the configs are {', '.join(study.configs)}"
        )
    return baseline


@contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Make the folder, and lock it against other comparisons."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise ConfigError(
            f"another comparison is running in {str(folder)!r}; wait for it, or use another folder"
        ) from error
    except OSError as error:
        raise cannot_write(folder, error) from error
    except ValueError as error:  # a path with a null character
        raise ConfigError(f"cannot write {shown(str(folder))}: {error}") from error


class _Run:
    """A comparison under way: its plan, and the rows that are finished."""

    def __init__(self, study: Study, prompts: list[str], folder: Path, progress: bool) -> None:
        self.study = study
        self.prompts = prompts
        self.progress = progress
        self.rewards = [reward for reward in study.rewards if reward.fills != "loglikelihood"]
        if all(reward.column != "repetition" for reward in self.rewards):
            self.rewards.append(Repetition())
        self.row_file = JsonLines(folder / ROWS, Row)
        self.judged_file = JsonLines(folder / JUDGED, Judgement)
        self.rows: dict[Key, Row] = latest(self.row_file.read())
        for key, found in group_judgements(self.judged_file.read()).items():
            if key in self.rows:
                self.rows[key] = with_judgements(self.rows[key], found)
        remember(study, folder / PLAN, {key.config for key in self.rows})
        for (name, _, index), row in self.rows.items():
            now = prompts[index] if index < len(prompts) else row.prompt
            if name in study.configs and row.prompt != now:
                raise ConfigError(
                    f"{self.row_file.path} has prompt {row.prompt!r} at place {index}, but now "
                    f"that is {now!r}; use another folder"
                )

    def _planned(self, name: str) -> list[Key]:
        """Return the keys of all answers that one config will have, in order."""
        places = range(len(self.prompts))
        return [Key(name, seed, place) for seed in self.study.seeds_of(name) for place in places]

    def _missing(self, name: str) -> list[Key]:
        """Return the keys of one config's answers that are missing or failed."""
        planned = self._planned(name)
        return [key for key in planned if key not in self.rows or self.rows[key].text is None]

    def _answers(self) -> list[Row]:
        """Return the finished rows of this comparison, in order."""
        return [self.rows[key] for name in self.study.configs for key in self._planned(name)]

    def answer_all(self, batch_size: int) -> None:
        """Answer all prompts that have no answer yet, config by config."""
        models = Models()
        missing = {name: keys for name in self.study.configs if (keys := self._missing(name))}
        total = _cost(self.study, missing)
        with bar_of(total, "answers", "tokens", self.progress) as bar:
            for name, keys in missing.items():
                bar.set_description(name)
                llm = models.llm(self.study.configs[name])
                listen = _listener(bar, llm.strategy.branches)
                prompts = min(batch_size // llm.strategy.branches, llm.engine.max_live)
                for batch in _batches(keys, max(prompts, 1)):
                    rows = answer(
                        llm,
                        name,
                        batch[0].seed,
                        {key.place: self.prompts[key.place] for key in batch},
                        listen,
                    )
                    self.row_file.append(rows)
                    self.rows |= latest(rows)
                del llm  # before the next config loads its models: there may be no room for both
        models.clear()

    def judge_all(self) -> None:
        """Judge all answers that have no reward yet, reward by reward."""
        work = [(reward, unjudged(reward, self._answers())) for reward in self.rewards]
        total = sum(len(rows) for _, rows in work)
        with bar_of(total, "rewards", "answers", self.progress) as bar:
            for reward, rows in work:
                bar.set_description(reward.column)
                for start in range(0, len(rows), _JUDGED_TOGETHER):
                    batch = rows[start : start + _JUDGED_TOGETHER]
                    found = judge(reward, batch)
                    self.judged_file.append(found)
                    for judgement in found:
                        key = judgement.key
                        self.rows[key] = with_judgements(self.rows[key], [judgement])
                    bar.update(len(batch))

    def finish(self) -> list[Row]:
        """Write all rows into one file, in order; return those of this comparison."""
        self.row_file.rewrite(in_order(self.rows.values(), self.study.configs))
        self.judged_file.path.unlink(missing_ok=True)
        return self._answers()


_JUDGED_TOGETHER = 64
"""Answers that a reward judges in one call; their judgements are written together."""


def _batches(keys: Sequence[Key], size: int) -> Iterator[list[Key]]:
    """Cut keys into batches of one seed that are the same in every run.

    Only the prompts' places decide where a batch begins, so a run that was interrupted continues
    with the batches that it would have had.
    """
    batch: list[Key] = []
    for key in keys:
        if batch and (key.seed, key.place // size) != (batch[0].seed, batch[0].place // size):
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def _cost(study: Study, missing: Mapping[str, Sequence[Key]]) -> int:
    """Count the tokens of all branches that are left, as if every answer had full length."""
    return sum(
        len(keys) * _full_length(study.configs[name]) * study.configs[name].strategy.branches
        for name, keys in missing.items()
    )


def _full_length(config: Entry | W2SLLM) -> int:
    """Return the most tokens of an answer."""
    return config.max_tokens if isinstance(config, W2SLLM) else config.generation.max_tokens


def _listener(bar: Any, branches: int) -> Callable[[Event], None]:
    """Make a listener that moves the bar."""

    def listen(event: Event) -> None:
        if isinstance(event, Progressed):
            bar.update(event.tokens * branches)

    return listen
