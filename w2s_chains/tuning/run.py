"""``tune``: successive halving over searches, then a confirmation on prompts that chose nothing."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s_chains.backend.loading.local_model import Loader
from w2s_chains.comparison import Comparison, Row, compare, compare_paired
from w2s_chains.comparison.checks import check_plots
from w2s_chains.comparison.prompts import checked_prompts, read_prompts
from w2s_chains.comparison.study import make_study
from w2s_chains.config.files import load_config
from w2s_chains.config.sections import W2SConfig
from w2s_chains.core.contracts import BaseGuidePair
from w2s_chains.errors import ConfigError, brief, shown
from w2s_chains.langchain.llms import W2SLLM
from w2s_chains.scorers.log_ratio import LogRatioConfig, LogRatioScorer
from w2s_chains.tuning.candidates import BASELINE, candidates, require_scorer
from w2s_chains.tuning.halving import Standing, contenders, recommended, survivors
from w2s_chains.tuning.report import Tuning, write

LEAST_PROMPTS = 24
"""A third of them confirms, and an interval over fewer than eight means little."""
_FIRST = 4
"""Prompts of the first round; every round doubles them and halves the candidates."""
_GROUP = 4
"""Candidates of the first round that are tried between two looks at the clock."""
_FINALISTS = 3
_SELECTION = 0.65
"""Share of the time for choosing; the rest is for the confirmation."""


def tune(
    config: W2SConfig | str | Path | Mapping[str, Any],
    prompts: str | Path | Sequence[str],
    *,
    out: str | Path,
    rewards: Sequence[Any] | None = None,
    strategies: Mapping[str, Any] | Sequence[Any] | None = None,
    minutes: float = 10.0,
    max_repetition: float = 0.05,
    max_loglikelihood_loss: float = 0.15,
    seed: int = 0,
    prompt_field: str = "prompt",
    batch_size: int = 256,
    plots: bool = True,
    progress: bool = False,
) -> Tuning:
    """Find the search that gains most for what the large model reads, within a budget of time.

    Successive halving (Jamieson and Talwalkar, 2016): all candidates answer a few prompts; those on
    the Pareto front of value against rows read go on first, half of them in all, to twice as many
    prompts. The last three are confirmed on prompts that chose nothing. The cheapest of those that
    beat plain sampling and are not clearly worse than the best one is recommended.

    How many prompts are tried depends on the clock, so another run may end elsewhere. Call it again
    with the same ``out`` to continue after an interruption: answers that are there cost nothing.

    Args:
        config: The config to improve: its models, its scorer and its sampling.
        prompts: A file (JSON, JSON lines, CSV or text), or the prompts; at least 24 different ones.
        out: The folder for all files.
        rewards: The judges, as in ``compare``; the first is maximised. By default the guides' own
            log-ratio is, or the score of another scorer: the search itself optimises that, so
            what it gains is worth less.
        strategies: Strategies to try instead of the standard ones, as in ``compare``.
        minutes: The time to spend.
        max_repetition: Most repetition above that of plain sampling, as a share of the words.
        max_loglikelihood_loss: Most nats per token by which the frozen model's own loglikelihood
            may fall below that of plain sampling.
        seed: The seed of every search, and of the order of the prompts.
        prompt_field: Field or column of the file that holds the prompt.
        batch_size: As in ``compare``.
        plots: Draw plots; needs matplotlib.
        progress: Show progress bars.

    Returns:
        The recommendation and all that it rests on. The folder has ``recommended.yaml``,
        ``tuning.md``, ``front.png``, and the comparisons ``selection`` and ``confirmation``.

    Raises:
        ConfigError: Something is missing, misspelt or out of range, or ``out`` holds another one.
        W2SError: A file cannot be written, or no candidate gives an answer.
    """
    for name, value in (
        ("minutes", minutes),
        ("max_repetition", max_repetition),
        ("max_loglikelihood_loss", max_loglikelihood_loss),
    ):
        if not (value >= 0 and (value > 0 or name != "minutes")):
            least = "more than 0" if name == "minutes" else "at least 0"
            raise ConfigError(f"{name} is {shown(value)}; it must be {least}")
    check_plots(plots)
    base = config if isinstance(config, W2SConfig) else load_config(config)
    require_scorer(base)
    texts = _prompts(prompts, prompt_field)
    random.Random(seed).shuffle(texts)
    return _Run(
        configs=candidates(base, strategies),
        standard=strategies is None,
        prompts=texts,
        folder=Path(out),
        rewards=rewards,
        seconds=60 * minutes,
        most=(max_repetition, max_loglikelihood_loss),
        options={"seeds": [seed], "batch_size": batch_size, "progress": progress},
    ).tune(plots)


def _prompts(prompts: str | Path | Sequence[str], field: str) -> list[str]:
    if isinstance(prompts, str | Path):
        found = read_prompts(prompts, field)
    else:
        named = ((f"prompt {n}", prompt) for n, prompt in enumerate(prompts, 1))
        found = checked_prompts(named, "the list")
    different = list(dict.fromkeys(found))
    if len(different) < LEAST_PROMPTS:
        raise ConfigError(
            f"there are {len(different)} different prompts, but a third of them is kept for the "
            f"confirmation; give at least {LEAST_PROMPTS}"
        )
    return different


class _Run:
    """A tuning under way."""

    def __init__(
        self,
        *,
        configs: Mapping[str, W2SConfig],
        standard: bool,
        prompts: Sequence[str],
        folder: Path,
        rewards: Sequence[Any] | None,
        seconds: float,
        most: tuple[float, float],
        options: Mapping[str, Any],
    ) -> None:
        self.configs = configs
        self.folder = folder
        self.seconds = seconds
        self.most_repetition, self.most_loss = most
        self.options = options
        self.began = time.monotonic()
        kept = len(prompts) // 3
        self.to_choose, self.to_confirm = prompts[kept:], prompts[:kept]
        self.left_out: dict[str, str] = {}
        self.tried: dict[str, Standing] = {}
        self.llms = self._build(prompts[0], standard)
        self.rewards, self.objective = self._judges(rewards)
        self.cost = "read_tokens"

    def _build(self, prompt: str, standard: bool) -> dict[str, W2SLLM]:
        """Load the models once, and leave out what they cannot do."""
        load, llms = Loader(), dict[str, W2SLLM]()
        for name, config in self.configs.items():
            llm = W2SLLM(**config.build(load=load))
            try:
                llm.jobs([prompt])
            except ConfigError as error:
                if name == BASELINE or not standard:
                    raise
                self.left_out[name] = brief(str(error))
                continue
            llms[name] = llm
        return llms

    def _judges(self, rewards: Sequence[Any] | None) -> tuple[list[Any], str]:
        """Return the rewards, and the column to maximise."""
        if rewards:
            study = make_study({BASELINE: self.llms[BASELINE]}, prompts=["-"], rewards=rewards)
            return list(study.rewards), study.rewards[0].column
        llm = self.llms[BASELINE]
        if isinstance(self.configs[BASELINE].scoring, LogRatioConfig) and llm.guides is not None:
            # Candidates may add to the score, so all are judged by the plain one.
            return [_log_ratio(llm.guides)], "log_ratio"
        return [], "guide_score"

    def _left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def tune(self, plots: bool) -> Tuning:
        alive = self._first_round()
        count = _FIRST
        while len(alive) > _FINALISTS and count < len(self.to_choose):
            count = min(2 * count, len(self.to_choose))
            needed = count / 2 * sum(self.tried[name].seconds for name in [*alive, BASELINE])
            if needed > self._left() - (1 - _SELECTION) * self.seconds:
                break
            self._try([BASELINE, *alive], count)
            alive = self._next(alive, max(_FINALISTS, math.ceil(len(alive) / 2)))
        finalists = [BASELINE, *self._next(alive, _FINALISTS)]
        return self._recommend(self._confirm(finalists, plots), plots)

    def _confirm(self, names: Sequence[str], plots: bool) -> Comparison:
        """Let the last candidates answer fresh prompts, as many as there is time for."""
        count, more = 0, LEAST_PROMPTS // 3
        found: Comparison | None = None
        while found is None or more > count:
            count = min(more, len(self.to_confirm))
            found = self._compare(names, self.to_confirm, count, "confirmation", plots)
            per_prompt = sum(map(_seconds, _by_config(found.rows).values()))
            fitting = int(max(0.0, self._left()) / max(per_prompt, 1e-9))
            more = min(count + min(fitting, 2 * count), len(self.to_confirm))
        return found

    def _first_round(self) -> list[str]:
        """Try all candidates on the first prompts, while there is time; return half of them."""
        names = [name for name in self.llms if name != BASELINE]
        for at in range(0, len(names), _GROUP):
            if at and self._left() < (1 - _SELECTION) * self.seconds:
                late = names[at:]
                self.left_out |= dict.fromkeys(late, "there was no time left; give more minutes")
                names = names[:at]
                break
            self._try([BASELINE, *names[at : at + _GROUP]], _FIRST)
        return self._next(names, max(_FINALISTS, math.ceil(len(names) / 2)))

    def _next(self, names: Sequence[str], keep: int) -> list[str]:
        return survivors([self.tried[name] for name in names], keep)

    def _try(self, names: Sequence[str], count: int) -> None:
        """Let some candidates answer the first prompts, and note how they stand."""
        found = self._compare(names, self.to_choose, count, "selection", False)
        self.tried |= {
            standing.name: standing for standing in self._standings(found, doubtful=True)
        }

    def _compare(
        self, names: Sequence[str], prompts: Sequence[str], count: int, folder: str, plots: bool
    ) -> Comparison:
        return compare(
            {name: self.llms[name] for name in names},
            prompts[:count],
            out=self.folder / folder,
            rewards=self.rewards,
            baseline=BASELINE,
            plots=plots,
            **self.options,
        )

    def _standings(self, found: Comparison, *, doubtful: bool) -> list[Standing]:
        """Return how each stands; if ``doubtful``, brakes only if they are clearly needed."""
        lines = {line.config: line for line in found.summary.lines}
        if any(math.isnan(line.costs["read_tokens"]) for line in lines.values()):
            self.cost = "seconds"
        rows = _by_config(found.rows)
        standings: list[Standing] = []
        for name, own in rows.items():
            seconds = _seconds(own)
            costs = {**lines[name].costs, "seconds": seconds}
            standings.append(
                Standing(
                    name=name,
                    prompts=len({row.index for row in own}),
                    value=lines[name].means[self.objective],
                    cost=costs[self.cost],
                    seconds=seconds,
                    brakes=self._brakes(own, rows[BASELINE], doubtful),
                )
            )
        return standings

    def _brakes(self, own: Sequence[Row], plain: Sequence[Row], doubtful: bool) -> tuple[str, ...]:
        found: list[str] = []
        limits = (("repetition", 1, self.most_repetition), ("loglikelihood", -1, self.most_loss))
        for column, sign, limit in limits:
            change = compare_paired(own, plain, column)
            if change is None:  # a model behind a server tells no loglikelihood
                continue
            least = min(sign * change.low, sign * change.high) if doubtful else sign * change.mean
            if least > limit:
                found.append(f"{column} {change.mean:+.2f}")
        return tuple(found)

    def _recommend(self, confirmation: Comparison, plots: bool) -> Tuning:
        rows = _by_config(confirmation.rows)

        def differences(baseline: str) -> dict[str, Any]:
            pairs = {
                name: compare_paired(own, rows[baseline], self.objective)
                for name, own in rows.items()
                if name != baseline
            }
            return {name: pair for name, pair in pairs.items() if pair is not None}

        standings = self._standings(confirmation, doubtful=False)
        gains = differences(BASELINE)
        best = contenders(standings, gains)
        chosen = recommended(standings, gains, differences(best[0].name) if best else {})
        name = chosen or BASELINE
        tuning = Tuning(
            recommended=name,
            config=self.configs[name],
            objective=self.objective,
            cost=self.cost,
            gains=gains,
            confirmed=tuple(standings),
            tried=tuple(self.tried.values()),
            left_out=self.left_out,
            confirmation=confirmation,
            folder=self.folder,
        )
        write(tuning, plots)
        return tuning


def _by_config(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.config, []).append(row)
    return found


def _seconds(rows: Sequence[Row]) -> float:
    return sum(row.seconds for row in rows) / len(rows)


def _log_ratio(pair: BaseGuidePair) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    scorer = LogRatioScorer(pair)

    def log_ratio(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return scorer.score_texts(prompts, answers, [False] * len(answers))

    return log_ratio
