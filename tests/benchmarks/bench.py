"""What guidance costs, as ratios to floors that are measured in the same run.

    make bench                                                 # writes tests/benchmarks/RESULTS.md
    python -m tests.benchmarks.bench --only 4,4,10,30,64 --prompts 1 --repeats 3

The proposer is the embedded SmolLM2 (135M). The guides are its first ten layers, so that they cost
what guides cost (64M); the tuned one has noise of 0.01. Token-level searches are compared with
plain sampling, with the demo's guides, small ones of another vocabulary; and with steering, with
the bench's own. One thread; floor and ours take turns. CPU seconds of the process; peak memory is
what the kernel saw, above what was there before. A benchmark reports, and asserts nothing.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import torch
import transformers
import typer
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
    Sampling,
    SamplingParams,
    SearchStrategy,
    TokenSearch,
)
from w2s_chains.backend.lm.causal_lm import CausalLM
from w2s_chains.backend.loading.embedded import embedded_path
from w2s_chains.backend.sampling.choosing import Chooser

RESULTS = Path(__file__).with_name("RESULTS.md")
GUIDE_LAYERS = 10
TEXT = (
    "The film begins slowly, in a small town by the sea, where a fisherman and his daughter wait "
    "for a letter that never comes. "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One line of the table.

    Attributes:
        label: W,K,L,P,N of a chunk beam, or a name.
        strategy: How we do it.
        prompt: Tokens of a prompt (P).
        new: New tokens of an answer (N).
        prompts: Answered at once.
        floor: What it is compared with: F1, F2, F3 (see ``floors``); "alone", the same work by
            ourselves, one prompt after another; "sampling", plain sampling by ourselves; or
            "steering", emulated fine-tuning by ourselves.
        demo: Whether the guides are those of the demo.
        goal: Of the issue, for the ratio to the floor.
        reference: The ratio of the reference implementation, where it was measured.
    """

    label: str
    strategy: SearchStrategy
    prompt: int = 30
    new: int = 64
    prompts: int = 1
    floor: str = "F1"
    demo: bool = False
    goal: float | None = None
    reference: float | None = None


def beam(w: int, k: int, chunk: int, prompt: int, new: int, **options: Any) -> Work:
    return Work(
        label=f"{w},{k},{chunk},{prompt},{new}",
        strategy=ChunkBeamSearch(width=w, successors=k, chunk_tokens=chunk),
        prompt=prompt,
        new=new,
        **options,
    )


def all_work() -> list[Work]:
    """One prompt first; then 4 and 16 prompts at once, the short answers before the long ones."""
    alone = [
        beam(2, 2, 10, 30, 64, reference=1.9),
        beam(4, 4, 10, 30, 64, goal=1.10, reference=2.7),
        beam(4, 4, 5, 30, 64, goal=1.15, reference=3.7),
        beam(4, 4, 10, 300, 20, goal=0.45, reference=3.4),
        Work(label="best-of-16", strategy=BestOfN(n=16), goal=0.95),
        Work(label="emulated fine-tuning", strategy=EmulatedFineTuning(), floor="F2", goal=1.10),
        beam(4, 4, 10, 30, 256, goal=1.05, reference=5.1),
        beam(2, 2, 10, 30, 512),
    ]
    many = [
        Work(
            label=work.label,
            strategy=work.strategy,
            prompt=work.prompt,
            new=work.new,
            prompts=prompts,
            floor="F2" if work.floor == "F2" else "F3",
        )
        for work in alone
        for prompts in (4, 16)
    ]
    together = beam(2, 2, 10, 30, 64, prompts=16, floor="alone", goal=1 / 3.5)
    return [*alone, together, *many, *token_level()]


def token_level() -> list[Work]:
    """Searches that choose every token, against plain sampling.

    The bench's own guides cost .94 of the proposer for a row of both, so that no guided search
    comes near plain sampling: there the floor is steering, which reads the same rows.
    """
    return [
        Work(
            label=f"{label},{prompt},{new}{', demo' if demo else ''}",
            strategy=strategy,
            prompt=prompt,
            new=new,
            prompts=prompts,
            floor="sampling" if demo else "steering",
            demo=demo,
            goal=goal,
        )
        for demo in (True, False)
        for prompt, new in ((30, 64), (30, 512), (1000, 64))
        for prompts in (1, 16)
        for label, strategy, goal in (
            ("1,4,1", ChunkBeamSearch(width=1, successors=4, chunk_tokens=1), 1.25),
            ("16 soft", TokenSearch(candidates=16, tau=0.5), 1.5),
        )
    ]


class Subject:
    """The models, in our parts and as transformers has them; their answers never end early."""

    def __init__(self) -> None:
        folder = embedded_path("smollm2-135m-instruct")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        proposer, tuned, untuned = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
            for options in ({}, *[{"num_hidden_layers": GUIDE_LAYERS}] * 2)
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weights in tuned.parameters():
                noise = torch.randn(weights.shape, generator=generator)
                weights += 0.01 * weights.std() * noise
        self.models = floors.Models(proposer.eval(), tuned.eval(), untuned.eval())
        self.proposer = HuggingFaceProposer(proposer, self.tokenizer)
        self.proposer.tokenizer.end_ids = ()
        guides = [HuggingFaceGuide(model, self.tokenizer) for model in (tuned, untuned)]
        self.parts = (self.proposer, *guides)
        self.pair = GuidePair(*guides)
        self.scorer = LogRatioScorer(self.pair)
        demo = GuidePair.from_pretrained("embedded:reviews-tuned", "embedded:reviews-untuned")
        self.demo_scorer = LogRatioScorer(demo)
        self.engine = Engine()

    def prompts(self, work: Work) -> list[str]:
        """Different texts of exactly so many tokens."""
        ids = self.tokenizer(TEXT * (2 + (work.prompt + 4 * work.prompts) // 25))["input_ids"]
        texts = [
            self.tokenizer.decode(ids[i : i + work.prompt]) for i in range(len(ids) - work.prompt)
        ]
        fitting = [t for t in texts if len(self.tokenizer(t)["input_ids"]) == work.prompt]
        chosen = list(dict.fromkeys(fitting))[: work.prompts]
        assert len(chosen) == work.prompts
        return chosen

    def run(self, work: Work, prompts: Sequence[str], seed: int) -> None:
        jobs = [
            Job(
                root=Hypothesis.root(prompt),
                strategy=work.strategy,
                proposer=self.proposer,
                scorer=self.scorer_of(work) if work.strategy.needs_scorer else None,
                guides=self.pair,
                sampling=SamplingParams(max_tokens=work.new, temperature=0.7),
                seed=seed,
            )
            for prompt in prompts
        ]
        for running in self.engine.submit(jobs):
            assert running.future.result().completion_tokens == work.new

    def scorer_of(self, work: Work) -> LogRatioScorer:
        return self.demo_scorer if work.demo else self.scorer

    def floor(self, work: Work, prompts: Sequence[str], seed: int) -> Callable[[], None]:
        if work.floor == "alone":

            def one_by_one() -> None:
                for prompt in prompts:
                    self.run(work, [prompt], seed)

            return one_by_one
        if work.floor in ("sampling", "steering"):
            strategy = Sampling() if work.floor == "sampling" else EmulatedFineTuning()
            plain = replace(work, strategy=strategy)
            return lambda: self.run(plain, prompts, seed)
        ids = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        if work.floor == "F2":
            return floors.emulated(self.models, ids, work.new)
        rows = work.strategy.branches
        chunk = getattr(work.strategy, "chunk_tokens", 16)
        batch = rows if work.floor == "F1" else 16
        return floors.guided(self.models, ids, rows, chunk, work.new, batch)

    def kv_bytes(self, work: Work) -> int:
        """Keys and values of W*K whole paths in all three models."""
        tokens = work.prompts * work.strategy.branches * (work.prompt + work.new)
        return tokens * sum(part.lm.memory.bytes_per_token for part in self.parts)

    def model_bytes(self) -> int:
        models = (self.models.proposer, self.models.tuned, self.models.untuned)
        return sum(p.numel() * p.element_size() for m in models for p in m.parameters())


@dataclass(slots=True)
class Cost:
    """CPU seconds, wall seconds, and bytes above what was there before."""

    cpu: float
    wall: float
    memory: int


def _status(field: str) -> int:
    """Bytes that the kernel reports in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def cost(run: Callable[[], None]) -> Cost:
    ctypes.CDLL(None).malloc_trim(0)  # or what earlier lines left would hide this one's peak
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    spent = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(*spent, _status("VmHWM") - before)


@contextmanager
def inside_models() -> Generator[list[float]]:
    """CPU seconds spent in model forwards and in sampling tokens: the rest is overhead."""
    spent = [0.0]

    def timed(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return original(*arguments, **options)
            finally:
                spent[0] += time.thread_time() - began

        return call

    with (
        mock.patch.object(CausalLM, "forward", timed(CausalLM.forward)),
        mock.patch.object(Chooser, "__call__", timed(Chooser.__call__)),
    ):
        yield spent


@dataclass(slots=True, kw_only=True)
class Line:
    """What was measured of one work; one entry per repeat."""

    work: Work
    ours: list[Cost]
    floor: list[Cost]
    overhead: list[float]

    def cpu(self) -> float:
        return statistics.median(own.cpu for own in self.ours)

    def ratios(self) -> list[float]:
        return [own.cpu / other.cpu for own, other in zip(self.ours, self.floor, strict=True)]


def measure(subject: Subject, work: Work, repeats: int) -> Line:
    """Floor, ours, floor, ours, ..."""
    prompts = subject.prompts(work)
    line = Line(work=work, ours=[], floor=[], overhead=[])
    for seed in range(repeats):
        line.floor.append(cost(subject.floor(work, prompts, seed)))
        with inside_models() as inside:
            line.ours.append(cost(lambda seed=seed: subject.run(work, prompts, seed)))
        line.overhead.append(1 - inside[0] / line.ours[-1].cpu)
    return line


HEADER = """\
| W,K,L,P,N | prompts | runs | CPU s | wall s | ratio to floor (CPU) | wall | goal | reference \
| overhead | peak memory: ours / floor |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"""


def row(line: Line) -> str:
    work, ratios = line.work, line.ratios()
    median = statistics.median
    wall = median(a.wall / b.wall for a, b in zip(line.ours, line.floor, strict=True))
    spread = f" [{min(ratios):.2f}, {max(ratios):.2f}]" if len(ratios) > 1 else ""
    memory = [max(own.memory for own in side) / 2**20 for side in (line.ours, line.floor)]
    cells = [
        work.label,
        str(work.prompts),
        str(len(ratios)),
        f"{line.cpu():.1f}",
        f"{median(own.wall for own in line.ours):.1f}",
        f"**{median(ratios):.2f}** {work.floor}{spread}",
        f"{wall:.2f}",
        "" if work.goal is None else f"{work.goal:.2f}",
        "" if work.reference is None else f"{work.reference:.1f}",
        f"{median(line.overhead):.1%}",
        f"{memory[0]:.0f} / {memory[1]:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def report(subject: Subject, lines: Sequence[Line]) -> str:
    """The page, with machine and versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    text = [
        "# Results of `make bench`",
        "",
        f"{_processor()} ({os.cpu_count()} cores), one thread, Python {platform.python_version()}, "
        f"{packages}, load {os.getloadavg()[1]:.1f}. Medians; in brackets the smallest and largest "
        "ratio. F1, F2, F3: `floors.py`; alone: ours, one prompt after another; sampling: "
        "plain sampling by ourselves; steering: emulated fine-tuning by ourselves. Overhead: CPU "
        "time outside model forwards and sampling. Reference: ratios to F1 of the reference "
        "implementation of the paper, quoted from `shared/FACTS.md` (another run, same floor).",
        "",
        HEADER,
        *(row(line) for line in lines),
        "",
    ]
    found = {(line.work.label, line.work.prompts, line.work.floor): line for line in lines}
    short, long = (found.get((f"2,2,10,30,{n}", 1, "F1")) for n in (64, 512))
    if short and long:
        exponent = math.log(long.cpu() / short.cpu()) / math.log(512 / 64)
        text.append(f"* Growth from 64 to 512 tokens: exponent {exponent:.2f} (goal 1.05).")
    if together := found.get(("2,2,10,30,64", 16, "alone")):
        gain = 1 / statistics.median(together.ratios())
        text.append(
            f"* 16 prompts, 2,2,10, at once: {gain:.2f} x the throughput of one after another "
            "(goal 3.5)."
        )
    if scoring := found.get(("4,4,10,300,20", 1, "F1")):
        limit = subject.model_bytes() + subject.kv_bytes(scoring.work)
        peak = subject.model_bytes() + max(own.memory for own in scoring.ours)
        text.append(
            f"* Peak of 4,4,10 P300: {peak / limit:.2f} x the models and the keys and values of "
            f"W*K whole paths ({limit / 2**20:.0f} MB; goal 1.15)."
        )
    text.append("* GPU rows (`python -m tests.benchmarks.gpu`): not measured, no GPU was lent.")
    return "\n".join(text) + "\n"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def main(
    only: Annotated[list[str] | None, typer.Option(help="W,K,L,P,N or a name")] = None,
    prompts: Annotated[list[int] | None, typer.Option(help="1, 4, 16")] = None,
    repeats: Annotated[int, typer.Option(help="of every line of one prompt")] = 3,
    write: Annotated[bool, typer.Option(help="write RESULTS.md, line by line")] = False,
) -> None:
    """Measure, and print the table."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    subject = Subject()
    subject.run(all_work()[0], ["A film"], 0)  # fingerprints of the vocabularies
    lines: list[Line] = []
    print(HEADER, flush=True)
    for work in all_work():
        if (only and work.label not in only) or (prompts and work.prompts not in prompts):
            continue
        lines.append(measure(subject, work, repeats if work.prompts == 1 else 1))
        print(row(lines[-1]), flush=True)
        if write:
            RESULTS.write_text(report(subject, lines))
    print(report(subject, lines).partition(HEADER)[2])


if __name__ == "__main__":
    typer.run(main)
