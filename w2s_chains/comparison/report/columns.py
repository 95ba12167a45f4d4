"""The columns of a comparison's table, and what each of them means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from w2s_chains.comparison.report.paired import DRAWS
from w2s_chains.comparison.rows import Row

ALWAYS = ("repetition", "loglikelihood")
"""Columns of every comparison: one of them shows when a search over-optimises."""

COSTS = {
    "read_tokens": "rows read",
    "seconds": "seconds",
    "rounds": "rounds",
    "proposed_tokens": "candidate tokens",
    "guide_tokens": "guide tokens",
    "guide_flops_ratio": "guide FLOPs",
}
"""The fields of a row that tell what its answer has cost, and their names for people."""

MEANINGS: Mapping[str, str] = {
    "answers": "answers that the means are over; neither is better",
    "failed": "answers that are missing, or that a reward failed on; lower is better",
    "guide score": (
        "what the config's own search maximises, in nats per answer where guides give it; neither "
        "is better, since a search can overdo it"
    ),
    "repetition": "1 - distinct / all words, from 0 to 1; lower is better",
    "loglikelihood": (
        "of the answer under the frozen model, in nats per token; neither is better, but far "
        "lower is text that it would not write"
    ),
    "KL": (
        "to the frozen model's own sampling, in nats per answer: an estimate for steering, an "
        "upper bound for searches; lower is closer to the frozen model"
    ),
    "rows read": (
        "token positions that the large model reads per answer to grow its texts, in all "
        "branches: the cost; lower is cheaper"
    ),
    "seconds": (
        "per answer: its batch's time, shared among the batch's answers; it depends on batch and "
        "machine, so do not compare it with other runs; lower is faster"
    ),
    "rounds": "steps per answer that wait for one another; lower is faster",
    "candidate tokens": (
        "sampled per answer, in all branches; no cost, but these rows of an older version do not "
        "tell what was read; neither is better"
    ),
    "guide tokens": "rows that both guides read per answer; lower is cheaper",
    "guide FLOPs": "the guides' work relative to the large model's, estimated; lower is cheaper",
}
"""What each column means, with its unit, and which way is better."""

OLD_GUIDE_TOKENS = (
    "tokens that both guides read per answer, every candidate counted in full; lower is cheaper"
)
"""What guide tokens mean if no row tells what was read."""


def about_rewards(
    names: Sequence[str], meanings: Mapping[str, str], base: str
) -> list[tuple[str, str]]:
    """Say what the columns of rewards mean; ``base`` is the config that others differ from."""
    if not names:
        return []
    difference = (
        f"the reward on its left, minus that of {base!r} on the same prompts and seeds; in "
        f"brackets its 95% interval, by bootstrap over prompts ({DRAWS:,} draws)"
    )
    win = (
        f"share of these pairs in which the config is above {base!r}, ties count half; 50% is no "
        "difference"
    )
    return [
        *((name, meanings.get(name, "a mean over answers; higher is better")) for name in names),
        ("difference", difference),
        ("win", win),
    ]


def costs(rows: Sequence[Row], name: str, told: bool) -> list[float]:
    """Return the costs of answers; none unless all of them have it, so that no mean is of some.

    Args:
        rows: The answers of one config.
        name: A field of ``COSTS``.
        told: Whether any row of the comparison tells ``read_tokens``. If so, those of older
            versions have no guide tokens either, since they counted them in another way.
    """
    found: list[float] = []
    for row in rows:
        count: float | None = getattr(row, name)
        untold = row.read_tokens is None and told and name not in ("proposed_tokens", "seconds")
        if count is None or untold or (name == "seconds" and not count):
            return []
        found.append(count)
    return found
