"""Search for two objectives at once, praise and few words; their weights trace a Pareto curve.

    python -m cookbook.mixture.trace            # 48 prompts, about five minutes on one core
    python -m cookbook.mixture.trace --plot     # the figure alone, from the committed rows

SmolLM2 continues the first words of held-out movie reviews up to the end of the sentence. The
search maximises

    (1 - w) * (log p_tuned - log p_untuned) - w * (words)

where the guides prefer praise. The two objectives conflict: more words hold more praise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cookbook.controlled_sentiment.reproduce import STUDY, prepare
from w2s_chains import (
    W2SLLM,
    CallableScorer,
    ChunkBeamSearch,
    GuidePair,
    HuggingFaceProposer,
    LogRatioScorer,
    MixtureScorer,
    Sampling,
    compare,
)
from w2s_chains.comparison import Row, compare_paired, load_study
from w2s_chains.comparison.report.plots import COLOURS, save, tidy
from w2s_chains.comparison.rows import JsonLines

RESULTS = Path(__file__).parent / "results"
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
PROMPTS, SEED = 48, 0
BASE = "frozen model alone"


def few_words(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Return minus the number of words."""
    return [-float(len(response.split())) for response in responses]


def name_of(weight: float) -> str:
    return f"w = {weight:g}"


def models() -> dict[str, W2SLLM]:
    """Return one model per weight, and the frozen model alone; all share their parts."""
    proposer = HuggingFaceProposer.from_pretrained(
        "embedded:smollm2-135m-instruct", template="Here is a movie review: {prompt}"
    )
    praise = LogRatioScorer(
        GuidePair.from_pretrained("embedded:reviews-tuned", "embedded:reviews-untuned")
    )
    short = CallableScorer(few_words)
    plain = W2SLLM(
        proposer=proposer, scorer=praise, strategy=Sampling(),
        max_tokens=40, temperature=0.7, stop=(".", "!", "?", "\n"),
    )  # fmt: skip
    beam = ChunkBeamSearch(width=2, successors=4, chunk_tokens=5)
    mixed = {
        name_of(w): plain.model_copy(
            update={"strategy": beam, "scorer": MixtureScorer([(praise, 1 - w), (short, w)])}
        )
        for w in WEIGHTS
    }
    return {BASE: plain, **mixed}


def pareto(rows: Sequence[Row]) -> Figure:
    """Draw gains in reward against costs in words, both relative to the frozen model alone.

    Bars are 95% intervals of the paired differences, by bootstrap over prompts.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    base = [row for row in rows if row.config == BASE]
    titles = {"gold": "gold reward (log-odds)", "vader": "VADER"}
    for axes, (column, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        line: list[tuple[float, float]] = []
        for weight in WEIGHTS:
            own = [row for row in rows if row.config == name_of(weight)]
            x, y = (compare_paired(own, base, c) for c in ("length", column))
            assert x is not None
            assert y is not None
            axes.errorbar(
                x.mean, y.mean,
                xerr=[[x.mean - x.low], [x.high - x.mean]],
                yerr=[[y.mean - y.low], [y.high - y.mean]],
                fmt="o", color=COLOURS[0], capsize=3, markersize=5, elinewidth=0.8,
            )  # fmt: skip
            place = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 8}
            axes.annotate(name_of(weight), (x.mean, y.mean), **place)
            line.append((x.mean, y.mean))
        axes.plot(*np.array(line).T, color=COLOURS[0], linewidth=1, alpha=0.6)
        axes.plot(0, 0, "o", color="black", markersize=5)
        axes.annotate(BASE, (0, 0), xytext=(5, -11), textcoords="offset points", fontsize=8)
        axes.set_xlabel("words, against the frozen model alone")
        axes.set_ylabel(f"{title}, likewise")
        tidy(axes)
    return figure


def main() -> None:
    """Run the comparison; rows, table and figure go into ``results/``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", action="store_true", help="only draw what was measured")
    if not parser.parse_args().plot:
        prepare()
        study = load_study(STUDY, limit=PROMPTS)
        found = compare(
            models(), study.read_prompts(), rewards=[*study.rewards, "length"], seeds=[SEED],
            out=RESULTS, plots=False, progress=True,
        )  # fmt: skip
        found.print()
    save(pareto(JsonLines(RESULTS / "rows.jsonl", Row).read()), RESULTS / "pareto.png")


if __name__ == "__main__":
    main()
