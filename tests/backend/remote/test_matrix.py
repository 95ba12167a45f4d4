"""Every fault of a server against every part: an answer or one clear error, in bounded time.

``W2S_FAULT_CALLS=1000`` makes a thousand calls of each instead of a few.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.helpers.faulty import FAULTS, KEY, serving
from tests.helpers.own_time import OwnTime
from tests.helpers.remote_parts import PARTS, TIMEOUT, Here
from w2s_chains import W2SLLM, Engine, Sampling
from w2s_chains.errors import W2SError

CALLS = int(os.environ.get("W2S_FAULT_CALLS", "3"))
AT_ONCE = 8


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
            patch.setenv(name, "")
        yield


HARMLESS = {
    # What these parts do not read, or may take.
    "proposer": {"positive logprobs", "logprobs are NaN", "logprobs too few"},
    "guide": {"unknown ending", "choices too many", "no text", "usage of nothing"},
    "judge": {
        "unknown ending", "no ending", "negative usage", "huge usage", "usage of nothing",
        "positive logprobs", "logprobs are NaN", "logprobs too few", "ids out of range",
        "choices too many",
    },
}  # fmt: skip


def resident() -> int:
    """Return the memory in use, in kilobytes, without what malloc only keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


class Secrets(logging.Handler):
    """Looks for the key in all that is logged; records would keep whole replies alive."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.leaked: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if KEY in (text := self.format(record)):
            self.leaked.append(text)


@contextmanager
def watched_log() -> Iterator[Secrets]:
    """Look at all that is logged in a test; pytest's own handlers would keep every record."""
    root, handler = logging.getLogger(), Secrets()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for other in (others := [h for h in root.handlers if h is not handler]):
        root.removeHandler(other)
    try:
        yield handler
    finally:
        for other in others:
            root.addHandler(other)
        root.removeHandler(handler)
        root.setLevel(level)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_or_one_clear_error(part: str, fault: str) -> None:
    engine = Engine()
    calm = W2SLLM(proposer=Here(), strategy=Sampling(), max_tokens=4, engine=engine)
    with watched_log() as secrets, serving(fault) as server, serving() as other, OwnTime() as clock:
        server.other = other.url
        llm = PARTS[part](server, engine)
        assert isinstance(llm.invoke("a"), str), "control: without the fault it works"
        server.on = True
        held = resident()
        begun, memory = clock.seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with ThreadPoolExecutor(AT_ONCE) as pool:
            calls = [pool.submit(llm.invoke, f"prompt {i}") for i in range(CALLS)]
            for _ in range(3):
                since = clock.seconds
                assert calm.invoke("x") == " word" * 4
                assert clock.seconds - since < 2 * TIMEOUT, "no other LLM is disturbed"
            errors = [call.exception(timeout=60 + CALLS) for call in calls]
        took = clock.seconds - begun
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        held = resident() - held
        assert not other.requests, "the prompt went to another server"
    failed = [error for error in errors if error is not None]
    assert all(isinstance(error, W2SError) for error in failed), failed
    if fault not in HARMLESS[part]:
        assert len(failed) == CALLS
    assert took < (CALLS / AT_ONCE + 1) * 12 * TIMEOUT + 3
    assert grown < 400_000, "kilobytes, less than one bomb; most is what malloc keeps of replies"
    assert held < 60_000 + 50 * CALLS, "kilobytes: no error keeps its reply"
    for error in failed:
        assert len(str(error)) < 1200
        told = "".join(traceback.format_exception(error)) + repr(error)
        assert KEY not in told, told
    assert not secrets.leaked
