"""What guidance costs, as ratios to floors that are measured in the same run.

    make bench                                       # writes tests/benchmarks/RESULTS.md
    python -m tests.benchmarks.bench --rows 4,4,10,30,64 --repeats 3

The proposer is the embedded SmolLM2 (135M). The guides are its first ten layers, so that they cost
what guides cost (64M), and the tuned one has noise of 0.01. One thread; medians of runs that take
turns with those of the floor. A benchmark reports, and asserts nothing.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.benchmarks import floors
from w2s_chains import (
    BestOfN,
    ChunkBeamSearch,
    EmulatedFineTuning,
    Engine,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    Hypothesis,
    Job,
    LogRatioScorer,
    SamplingParams,
    SearchStrategy,
)
from w2s_chains.backend.causal_lm import CausalLM
from w2s_chains.backend.embedded import embedded_path
from w2s_chains.backend.sampling import _Chooser

RESULTS = Path(__file__).with_name("RESULTS.md")
GUIDE_LAYERS = 10
TEXT = (
    "The film begins slowly, in a small town by the sea, where a fisherman and his daughter wait "
    "for a letter that never comes. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One line of the table."""

    name: str
    strategy: SearchStrategy
    prompt: int
    new: int
    prompts: int = 1
    goal: float | None = None
    floor: str = "F1"


def beam(w: int, k: int, chunk: int, prompt: int, new: int, **options: Any) -> Work:
    return Work(
        name=f"chunk beam {w},{k},{chunk}",
        strategy=ChunkBeamSearch(width=w, successors=k, chunk_tokens=chunk),
        prompt=prompt,
        new=new,
        **options,
    )


WORK = [
    beam(2, 2, 10, 30, 64),
    beam(4, 4, 10, 30, 64, goal=1.10),
    beam(4, 4, 5, 30, 64, goal=1.15),
    beam(4, 4, 10, 30, 256, goal=1.05),
    beam(4, 4, 10, 300, 20, goal=0.45),
    beam(2, 2, 10, 30, 512),
    Work(name="best-of-16", strategy=BestOfN(n=16), prompt=30, new=64, goal=0.95),
    Work(name="emulated fine-tuning", strategy=EmulatedFineTuning(), prompt=30, new=64, goal=1.10,
         floor="F2"),
    beam(2, 2, 10, 30, 64, prompts=4, floor="F3"),
    beam(2, 2, 10, 30, 64, prompts=16, floor="F3"),
    beam(4, 4, 10, 30, 64, prompts=4, floor="F3"),
]  # fmt: skip


class Subject:
    """Our side: the same models in our parts, whose answers never end early."""

    def __init__(self) -> None:
        folder = embedded_path("smollm2-135m-instruct")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        proposer: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        untuned: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, num_hidden_layers=GUIDE_LAYERS
        )
        tuned: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, num_hidden_layers=GUIDE_LAYERS
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weights in tuned.parameters():
                noise = torch.randn(weights.shape, generator=generator)
                weights += 0.01 * weights.std() * noise
        self.models = floors.Models(proposer.eval(), tuned.eval(), untuned.eval())
        self.tokenizer = tokenizer
        self.proposer = HuggingFaceProposer(proposer, tokenizer)
        self.pair = GuidePair(
            HuggingFaceGuide(tuned, tokenizer), HuggingFaceGuide(untuned, tokenizer)
        )
        self.scorer = LogRatioScorer(self.pair)
        self.proposer.text.end_ids = ()
        self.engine = Engine()

    def prompts(self, count: int, length: int) -> list[str]:
        """Different texts of exactly ``length`` tokens."""
        ids = self.tokenizer(TEXT * (1 + length // 10))["input_ids"]
        texts = [self.tokenizer.decode(ids[i : i + length]) for i in range(4 * count)]
        fitting = [t for t in texts if len(self.tokenizer(t)["input_ids"]) == length]
        return fitting[:count]

    def run(self, work: Work, prompts: Sequence[str], seed: int) -> None:
        jobs = [
            Job(
                root=Hypothesis.root(prompt),
                strategy=work.strategy,
                proposer=self.proposer,
                scorer=self.scorer,
                guides=self.pair,
                sampling=SamplingParams(max_tokens=work.new, temperature=0.7),
                seed=seed,
            )
            for prompt in prompts
        ]
        for running in self.engine.submit(jobs):
            assert running.future.result().completion_tokens == work.new

    def floor(self, work: Work, prompts: Sequence[str]) -> Callable[[], None]:
        ids = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        if work.floor == "F2":
            return floors.emulated(self.models, ids, work.new)
        rows = work.strategy.branches
        chunk = getattr(work.strategy, "chunk_tokens", None) or work.new
        batch = rows if work.floor == "F1" else 16
        return floors.guided(self.models, ids, rows, chunk, work.new, batch)


@dataclass(slots=True)
class Cost:
    """CPU seconds, wall seconds, and bytes above what was there before."""

    cpu: float
    wall: float
    memory: int


@contextmanager
def peak_memory() -> Generator[list[int]]:
    """The most resident memory while the block runs, above that at its start, in bytes."""
    page = 4096
    statm = Path("/proc/self/statm")
    begin = int(statm.read_text().split()[1]) * page
    found = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], int(statm.read_text().split()[1]) * page - begin)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def cost(run: Callable[[], None]) -> Cost:
    with peak_memory() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        spent = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(*spent, memory[0])


@contextmanager
def inside_models() -> Generator[list[float]]:
    """CPU seconds spent in model forwards and in choosing tokens: the rest is overhead."""
    spent = [0.0]
    originals = CausalLM.forward, _Chooser.__call__

    def timed(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return original(*arguments, **options)
            finally:
                spent[0] += time.thread_time() - began

        return call

    CausalLM.forward, _Chooser.__call__ = map(timed, originals)  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        CausalLM.forward, _Chooser.__call__ = originals  # type: ignore[method-assign]


@dataclass(slots=True, kw_only=True)
class Line:
    work: Work
    cpu: float
    wall: float
    ratio: float
    low: float
    high: float
    overhead: float
    memory: int


def measure(subject: Subject, work: Work, repeats: int) -> Line:
    """Medians over runs that take turns: floor, ours, floor, ours, ..."""
    prompts = subject.prompts(work.prompts, work.prompt)
    theirs: list[Cost] = []
    ours: list[Cost] = []
    shares: list[float] = []
    for seed in range(repeats):
        theirs.append(cost(subject.floor(work, prompts)))
        with inside_models() as inside:
            ours.append(cost(lambda seed=seed: subject.run(work, prompts, seed)))
        shares.append(1 - inside[0] / ours[-1].cpu)
    ratios = [own.cpu / floor.cpu for own, floor in zip(ours, theirs, strict=True)]
    return Line(
        work=work,
        cpu=statistics.median(own.cpu for own in ours),
        wall=statistics.median(own.wall for own in ours),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        overhead=statistics.median(shares),
        memory=max(own.memory for own in ours),
    )


def report(lines: Sequence[Line], repeats: int) -> str:
    """The table, with machine and versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    text = [
        f"{_processor()}, one thread, Python {platform.python_version()}, {packages}; medians of "
        f"{repeats} runs, in brackets the smallest and largest ratio.",
        "",
        "| work | prompts | P | N | CPU s | wall s | ratio to floor | goal | overhead | memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        work = line.work
        goal = "" if work.goal is None else f"{work.goal:.2f}"
        text.append(
            f"| {work.name} | {work.prompts} | {work.prompt} | {work.new} | {line.cpu:.1f} "
            f"| {line.wall:.1f} | {line.ratio:.2f} {work.floor} [{line.low:.2f}, {line.high:.2f}] "
            f"| {goal} | {line.overhead:.1%} | {line.memory / 2**20:.0f} MB |"
        )
    text.append("")
    by_key = {(x.work.name, x.work.prompts, x.work.prompt, x.work.new): x for x in lines}
    short, long = (by_key.get(("chunk beam 2,2,10", 1, 30, n)) for n in (64, 512))
    if short and long:
        exponent = math.log(long.cpu / short.cpu) / math.log(512 / 64)
        text.append(f"Growth from 64 to 512 tokens: exponent {exponent:.2f} (goal 1.05).")
    together = by_key.get(("chunk beam 2,2,10", 16, 30, 64))
    if short and together:
        gain = 16 * short.cpu / together.cpu
        text.append(f"16 prompts at once: {gain:.1f} x the throughput of one by one (goal 3.5).")
    return "\n".join(text) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", help="only these: W,K,L,P,N or a name")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject()
    lines: list[Line] = []
    for work in WORK:
        label = f"{work.name.removeprefix('chunk beam ')},{work.prompt},{work.new}"
        if options.rows and not {label, work.name} & set(options.rows):
            continue
        lines.append(measure(subject, work, options.repeats))
        print(report(lines, options.repeats).splitlines()[-1 - 2 * (len(lines) > 99)], flush=True)
    text = report(lines, options.repeats)
    print(text)
    if options.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
