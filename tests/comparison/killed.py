"""Runs a comparison again and again, killed each time; called by test_crash.py.

A process of its own, because it forks: the children have everything imported already.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from w2s_chains.comparison import compare
from w2s_chains.errors import W2SError


def start(study: str, out: Path, largest_file: int | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 0
    try:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        compare(study, out=out, batch_size=2)
    except W2SError as error:
        print(f"told: {error}", file=sys.stderr)
        status = 3
    finally:
        sys.stderr.flush()
        os._exit(status)


def code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(study: str, folder: Path) -> None:
    torch.set_num_threads(1)
    began = time.monotonic()
    assert code(start(study, folder / "undisturbed")) == 0
    duration = time.monotonic() - began
    rng = random.Random(os.getpid())
    seen: list[tuple[str, list[str]]] = []
    finished = 0
    while len(seen) < 10:
        out = folder / f"killed-{finished}"
        pid = start(study, out)
        time.sleep(rng.uniform(0.1, 0.5) * duration)
        os.kill(pid, signal.SIGKILL)
        if code(pid) == 0:
            finished += 1  # too late: the next one is killed in a folder of its own
            continue
        rows = out / "rows.jsonl"
        seen.append((out.name, rows.read_text().split("\n") if rows.exists() else []))
    assert code(start(study, folder / seen[-1][0])) == 0
    full = code(start(study, folder / "full", largest_file=4096))
    assert code(start(study, folder / "full")) == 0
    print(json.dumps({"seen": seen, "full": full}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
