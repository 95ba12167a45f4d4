"""Fork a process that has used its models, and use them in the children.

``python -m tests.helpers.forking idle 200`` forks right after an answer, ``busy`` while three
threads ask for answers. Prints how many children gave the parent's answer, another one, or none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter

from tests.helpers import tiny
from w2s_chains import (
    W2SLLM,
    ChunkBeamSearch,
    GuidePair,
    HuggingFaceGuide,
    HuggingFaceProposer,
    LogRatioScorer,
)

TIME = 30
"""Seconds for a child."""


def model() -> W2SLLM:
    """Models that are large enough for torch to use several threads."""
    tokenizer = tiny.byte_tokenizer()
    lm = tiny.llama(len(tokenizer), hidden_size=256, intermediate_size=512, initializer_range=0.1)
    guides = [HuggingFaceGuide(each, tokenizer) for each in (tiny.noisy(lm), lm)]
    return W2SLLM(
        proposer=HuggingFaceProposer(lm, tokenizer),
        scorer=LogRatioScorer(GuidePair(*guides)),
        strategy=ChunkBeamSearch(width=2, successors=2, chunk_tokens=4),
        max_tokens=8,
        seed=0,
    )


def child(llm: W2SLLM, wanted: str) -> int:
    signal.alarm(TIME)
    try:
        return 0 if llm.invoke(PROMPT) == wanted else 1
    except Exception as error:
        print(repr(error), file=sys.stderr, flush=True)
        return 2


PROMPT = "a prompt of some length, " * 8


def main(how: str, forks: int) -> dict[str, int]:
    llm = model()
    wanted = llm.invoke(PROMPT)
    ended = threading.Event()

    def work(number: int) -> None:
        while not ended.is_set():
            llm.invoke(f"{number} {PROMPT}")

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3 * (how == "busy"))]
    for worker in workers:
        worker.start()
    found: Counter[str] = Counter()
    for number in range(forks):
        if how == "idle":
            llm.invoke(f"{number} {PROMPT}")
        process = os.fork()
        if not process:
            os._exit(child(llm, wanted))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        found[{0: "same", 1: "other", 2: "error"}.get(status, "hangs")] += 1
    ended.set()
    for worker in workers:
        worker.join()
    return dict(found)


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
