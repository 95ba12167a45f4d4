"""Show the main use in one run: the same prompts unguided, with best-of-16 and with chunk beam.

    python -m cookbook.controlled_sentiment.demo --prompts 12
    python -m cookbook.controlled_sentiment.demo --prompts 48 --seeds 3 --controls

A frozen SmolLM2 (135M) continues the first words of held-out movie reviews. Two guides of 0.08M
parameters each pull it towards praise. Two judges that no guide has seen say whether it worked.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence

from cookbook.controlled_sentiment.reproduce import PROMPTS, STUDY, prepare
from w2s_chains.comparison import Comparison, Study, compare, load_study

MAIN = ("base", "best-of-16", "chunk beam 4,4,5")
CONTROLS = ("control, guides swapped", "control, two equal guides")


def part_of_study(names: Sequence[str], prompts: int, seeds: int) -> Study:
    """Return some configs of ``study.yaml``, on its first prompts."""
    prepare()
    study = load_study(STUDY, limit=prompts, seeds=tuple(range(seeds)))
    return study.model_copy(update={"configs": {name: study.configs[name] for name in names}})


def show_examples(found: Comparison, count: int) -> None:
    """Print the answers to the first prompts side by side."""
    for index in range(count):
        rows = [row for row in found.rows if row.index == index and row.seed == 0]
        for row in rows:
            if row is rows[0]:
                print(f"\n» {row.prompt} ...")
            text = " ".join((row.text or "").split())
            print(f"  {row.config:26s} gold {row.rewards['gold']:+.2f}  {text}")


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=12, help=f"held-out prompts, to {PROMPTS}")
    parser.add_argument("--seeds", type=int, default=1, help="answers per prompt and strategy")
    parser.add_argument("--examples", type=int, default=3, help="prompts whose answers are shown")
    parser.add_argument("--controls", action="store_true", help="also swapped and equal guides")
    options = parser.parse_args()
    names = MAIN + (CONTROLS if options.controls else ())
    study = part_of_study(names, options.prompts, options.seeds)
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(study, out=scratch, plots=False, progress=True)
    show_examples(found, options.examples)
    print()
    found.summary.print()


if __name__ == "__main__":
    main()
