"""Run both experiments: prepare the data, compare what the two studies list, draw figures.

    make reproduce

Run it again to continue after an interruption. The rows in ``results/`` are committed, so it only
makes the table and the figures unless you delete them.
"""

from pathlib import Path
from typing import Any, cast

import torch
import transformers

from cookbook.controlled_sentiment.data import prompts
from cookbook.controlled_sentiment.figures import draw_figures
from cookbook.controlled_sentiment.gold import write_gold
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.comparison import compare

hf = cast(Any, transformers)  # it is only partly typed

HERE = Path(__file__).parent
INPUTS = HERE / "inputs"
RESULTS, STUDY = HERE / "results", HERE / "study.yaml"
BY_ROWS, BY_ROWS_STUDY = HERE / "by_rows", HERE / "by_rows.yaml"
PROMPTS = 100
FRESH = 200
"""From this place on, no choice of a setting has seen the prompts."""


def prepare() -> None:
    """Write the studies' inputs: prompts, the gold judge's data, and two random guides."""
    INPUTS.mkdir(exist_ok=True)
    for name, begin in (("prompts", 0), ("fresh_prompts", FRESH)):
        own = prompts(begin + PROMPTS)[begin:]
        (INPUTS / f"{name}.txt").write_text("\n".join(own) + "\n", encoding="utf-8")
    write_gold(INPUTS / "gold.csv")
    for seed in (1, 2):
        write_random_guide(INPUTS / f"random-{seed}", seed)


def write_random_guide(folder: Path, seed: int) -> None:
    """Write the untuned guide with random weights, large enough to prefer some tokens clearly."""
    source = embedded_path("reviews-untuned")
    model = hf.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(std=0.3, generator=generator)
    model.save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def main() -> None:
    """Run everything."""
    prepare()
    compare(STUDY, out=RESULTS, progress=True).print()
    compare(BY_ROWS_STUDY, out=BY_ROWS, progress=True).print()
    draw_figures(RESULTS)


if __name__ == "__main__":
    main()
