"""How close a search on a GPU comes to the bandwidth of its memory.

    python -m tests.benchmarks.gpu                     # Llama-3-8B and 1B shapes in bfloat16
    python -m tests.benchmarks.gpu --small             # tiny shapes, also on CPU: does it run?

The weights are random, so nothing is downloaded; torch, transformers and pydantic are enough. A
decode step has to read every weight once: weight bytes / measured copy bandwidth is its limit.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from tests.benchmarks import floors
from tests.helpers import tiny
from w2s_chains import (
    ChunkBeamSearch,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    SamplingParams,
)

SHAPES: dict[str, dict[str, Any]] = {
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
    },
    "small": {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048,
    },
    "smaller": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048,
    },
}  # fmt: skip
NEW = 60
PROMPT = "The film begins slowly, in a small town by the sea, where a fisherman waits. "


def model(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A Llama of this shape with random weights."""
    config = LlamaConfig(
        **SHAPES[shape],
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Median over some runs, after one to warm up."""
    run()
    spent: list[float] = []
    for _ in range(repeats):
        synchronise(device)
        begin = time.perf_counter()
        run()
        synchronise(device)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


class TimedGuide(HuggingFaceGuide):
    """Knows the seconds that all guides have spent."""

    spent = 0.0

    def loglikelihood(self, hypotheses: Sequence[Hypothesis]) -> list[float]:
        device = self.lm.device
        synchronise(device)
        begin = time.perf_counter()
        result = super().loglikelihood(hypotheses)
        synchronise(device)
        TimedGuide.spent += time.perf_counter() - begin
        return result


def main(
    small: Annotated[bool, typer.Option(help="tiny shapes")] = False,
    device: Annotated[str, typer.Option(help="cuda or cpu")] = "",
) -> None:
    """Measure, and print a page of markdown."""
    transformers.logging.set_verbosity_error()
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    names = ("small", "smaller") if small else ("8B", "1B")
    large = model(names[0], where, dtype)
    guides = [model(names[1], where, dtype) for _ in range(2)]
    tokenizer = tiny.byte_tokenizer()
    engine = Engine()

    @functools.cache
    def parts(graphs: bool) -> tuple[HuggingFaceProposer, LogRatioScorer]:
        options: dict[str, Any] = {"token_budget": 2**18, "cuda_graphs": graphs}
        proposer = HuggingFaceProposer(large, tokenizer, **options)
        proposer.tokenizer.end_ids = ()
        pair = GuidePair(*(TimedGuide(m, tokenizer, **options) for m in guides))
        return proposer, LogRatioScorer(pair)

    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "CPU"
    speed = bandwidth(where, 2**31 if where.type == "cuda" else 2**27)
    weights = sum(p.numel() * p.element_size() for p in large.parameters())
    weights -= large.get_input_embeddings().weight.nbytes  # a step looks up a few of its rows
    limit = weights / speed
    print(f"{name}, torch {torch.__version__}; {names[0]} proposer, {names[1]} guides, {dtype}.")
    print(f"Copy {speed / 1e9:.0f} GB/s, weights {weights / 1e9:.2f} GB: {limit * 1e3:.2f} ms.\n")

    def jobs(prompts: int, strategy: ChunkBeamSearch, graphs: bool) -> list[Job]:
        proposer, scorer = parts(graphs)
        return [
            Job(
                root=Hypothesis.root(f"{i} {PROMPT}"),
                strategy=strategy,
                proposer=proposer,
                scorer=scorer,
                sampling=SamplingParams(max_tokens=NEW, temperature=0.7),
                seed=0,
            )
            for i in range(prompts)
        ]

    def search(prompts: int, strategy: ChunkBeamSearch, graphs: bool) -> None:
        for running in engine.submit(jobs(prompts, strategy, graphs)):
            running.future.result()

    print(
        "| W,K,L | CUDA graphs | prompts | s | proposed tokens/s | x one prompt | ms a step "
        "| x limit | generate, ms a step | guides |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    beams = [(4, 4, 10), (2, 2, 30), (1, 4, 1)]
    recorded = (False, True) if where.type == "cuda" else (False,)
    for (w, k, chunk), graphs in itertools.product(beams, recorded):
        strategy = ChunkBeamSearch(width=w, successors=k, chunk_tokens=chunk)
        one = 0.0
        for prompts in (1, 8, 32):
            rows = prompts * w * (k if chunk > 1 else 1)
            total = seconds(functools.partial(search, prompts, strategy, graphs), where)
            TimedGuide.spent, begin = 0.0, time.perf_counter()
            search(prompts, strategy, graphs)
            share = TimedGuide.spent / (time.perf_counter() - begin)
            ids = torch.ones((rows, 30), dtype=torch.long, device=where)
            theirs = seconds(lambda ids=ids: floors.generate(large, ids, NEW), where) / NEW
            rate = prompts * w * k * NEW / total
            one = one or rate
            step = total * (1 - share) / NEW
            print(
                f"| {w},{k},{chunk} | {'yes' if graphs else 'no'} | {prompts} | {total:.2f} "
                f"| {rate:.0f} | {rate / one:.1f} | {step * 1e3:.2f} | {step / limit:.2f} "
                f"| {theirs * 1e3:.2f} | {share:.0%} |",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
