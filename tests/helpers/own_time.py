"""Time as this process has it: on a busy machine it passes as slowly as all that is measured."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

BEAT = 0.01


class OwnTime:
    """A clock that stands still while other processes have the processors.

    Attributes:
        seconds: What a thread that does nothing but sleep has slept, and what all threads have
            worked. So waiting counts, and work that lets no other thread run counts too; waiting
            for a processor counts for little.
    """

    def __init__(self) -> None:
        self._beats = 0
        self._over = threading.Event()
        self._begun = time.process_time()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def seconds(self) -> float:
        return self._beats * BEAT + time.process_time() - self._begun

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._beats += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
