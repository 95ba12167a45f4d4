"""A LoRA pair against two models: time of scoring, and memory of the weights.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.guides [--rounds 7] [--model NAME] [--rank 16]

Both score the same chunks in one process, by turns, so that whatever else the machine does hits
both alike. The adapter is random; of the two models, one has it merged in.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from tests.helpers import tiny
from tests.helpers.llms import both_guides
from w2s_chains import GuidePair, HuggingFaceGuide, Hypothesis

TEXT = "the film was a moving and funny story about two old friends who travel by sea"
WORDS = TEXT.split()


def texts(prompts: int, siblings: int, chunk: int, steps: int) -> list[list[Hypothesis]]:
    """What a chunk beam search scores, step by step."""
    parents = [Hypothesis.root(" ".join(WORDS[i:] + WORDS[:i]) * 2) for i in range(prompts)]
    asked: list[list[Hypothesis]] = []
    for step in range(steps):
        children = [
            parent.extend(
                "".join(f" {WORDS[(step + s * 7 + w) % len(WORDS)]}" for w in range(chunk))
            )
            for parent in parents
            for s in range(siblings)
        ]
        asked.append(children)
        parents = children[::siblings]
    return asked


def seconds(pair: GuidePair, shape: tuple[int, int, int, int]) -> float:
    """CPU time; wall time on a GPU."""
    work = texts(*shape)
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    for hypotheses in work:
        pair.loglikelihoods(hypotheses)
    return clock() - start


def weights(*guides: HuggingFaceGuide) -> float:
    """Megabytes of all parameters, each counted once."""
    unique = {p.data_ptr(): p.nbytes for g in guides for p in g.lm.model.parameters()}
    return sum(unique.values()) / 1e6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    untuned = HuggingFaceGuide.from_pretrained(options.model)
    model, tokenizer = untuned.lm.model, untuned.tokenizer.hf_tokenizer
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder)
        merged = tiny.save_adapter(adapter, model, r=options.rank)
        two = GuidePair(HuggingFaceGuide(merged.to(model.device), tokenizer), untuned)
        one = GuidePair.from_adapter(options.model, adapter)
    print(
        f"weights: {weights(*both_guides(one)):.0f} MB, two models "
        f"{weights(*both_guides(two)):.0f} MB"
    )
    check = texts(2, 2, 5, 2)[-1]
    gaps = [
        abs(a - b)
        for x, y in zip(one.loglikelihoods(check), two.loglikelihoods(check), strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    print(f"largest difference: {max(gaps):.1e} nats")
    print("prompts siblings chunk steps | LoRA pair s | two models s | ratio (quartiles)")
    for shape in ((1, 1, 1, 8), (1, 4, 5, 4), (1, 16, 5, 3), (4, 4, 5, 3), (8, 16, 5, 1)):
        pairs = [(seconds(one, shape), seconds(two, shape)) for _ in range(options.rounds)]
        ratios = sorted(a / b for a, b in pairs)
        low, middle, high = statistics.quantiles(ratios, n=4)
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{shape} | {mine:.3f} | {theirs:.3f} | {middle:.2f} ({low:.2f}-{high:.2f})", flush=True
        )


if __name__ == "__main__":
    main()
