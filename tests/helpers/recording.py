"""Record operations on a CPU as a CUDA graph does: repeated as they were, on the same memory."""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from w2s_chains.backend.kv.replay import Run

CPU = torch.device("cpu")


class Recorder:
    """Writes down torch's operations with all Python values as constants.

    Attributes:
        recorded: Recordings made.
        repeated: How often one of them was repeated.
    """

    def __init__(self) -> None:
        self.recorded = 0
        self.repeated = 0

    def __call__(self, run: Run) -> Run:
        graph = make_fx(lambda: run())()
        self.recorded += 1

        def repeat() -> None:
            self.repeated += 1
            graph()

        return repeat
