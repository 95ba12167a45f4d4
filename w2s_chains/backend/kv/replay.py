"""``Replays``: forward passes of few columns, recorded once as CUDA graphs and then repeated.

A decode step of a large model launches thousands of small operations, and a GPU waits for each. A
CUDA graph launches all of them at once. It repeats the same operations on the same memory, so what
differs from step to step lies in tensors: the tokens, their positions, the columns that they go to,
and the mask. All columns of a frame are read, and the mask hides those that are not filled yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from w2s_chains.backend.kv.batch import Batch
from w2s_chains.backend.kv.frames import Frame
from w2s_chains.backend.kv.masks import Mask, given

_MOST_COLUMNS = 32
"""Longer forwards keep a GPU busy by themselves, and come in too many lengths."""

Run = Callable[[], object]
Recorder = Callable[[Run], Run]
"""Records what a function does on the device, and returns a function that repeats it."""


class Forward(Protocol):
    """A model's forward pass: tokens [B, n] and a mask [B, 1, n, columns] give logits [B, n, V].

    Where kinds of layers see different windows, there is a mask of each kind.
    """

    def __call__(self, ids: Tensor, positions: Tensor, mask: Mask, cache: Cache) -> Tensor: ...


class Replays:
    """The recorded forward passes of a model. Not thread-safe, like the model."""

    def __init__(self, device: torch.device, record: Recorder) -> None:
        """Begin without any.

        Args:
            device: Where the model lies.
            record: Makes the recordings.
        """
        self.record = record
        self._logits = torch.empty(0, device=device)

    def read(self, forward: Forward, batch: Batch, ids: Tensor) -> Tensor | None:
        """Read the next columns of a batch, without counting them as filled.

        Args:
            forward: The model; always the same one.
            batch: The batch; gets keys and values.
            ids: Tokens. [B, n]

        Returns:
            Logits in float32 [B, n, V]; None if such a forward is not recorded.
        """
        frame, (rows, count) = batch.frame, ids.shape
        if frame is None or count > _MOST_COLUMNS or batch.filled + count > frame.columns:
            return None
        step = frame.recorded.get(count)
        if step is None:
            step = frame.recorded[count] = _Step(self, frame, count, ids.device)
        return step(forward, batch, ids)[:rows]

    def room(self, *shape: int) -> Tensor:
        """Return memory for logits, which all recordings share: tables of logits are large.

        They are copied before the next forward.
        """
        size = math.prod(shape)
        if len(self._logits) < size:
            self._logits = torch.empty(size, dtype=torch.float32, device=self._logits.device)
        return self._logits[:size].view(shape)


class _Step:
    """A forward of ``count`` columns on a frame: run once as it is, then recorded."""

    def __init__(self, owner: Replays, frame: Frame, count: int, device: torch.device) -> None:
        self._owner = owner
        self._ids = torch.zeros((frame.rows, count), dtype=torch.long, device=device)
        self._positions = torch.zeros_like(self._ids)
        self._where = torch.zeros(count, dtype=torch.long, device=device)
        self._shape = (frame.rows, 1, count, frame.columns)
        self._masks: dict[str, Tensor] = {}
        self._cache = frame.cache(self._where)
        self._logits: Tensor | None = None  # where the recording leaves them. [rows, count, V]
        self._size = 0
        self._replay: Run | None = None

    def __call__(self, forward: Forward, batch: Batch, ids: Tensor) -> Tensor:
        """Return the logits of all rows of the frame: [rows, count, V]."""
        rows, count = ids.shape
        # Rows beyond the batch's go on with what was there: nobody reads them.
        self._ids[:rows] = ids
        self._positions[:rows] = batch.positions(count)
        self._where.copy_(batch.next_columns(count))
        for kind, mask in batch.added_masks(count, self._shape[-1]).items():
            if kind not in self._masks:
                self._masks[kind] = mask.new_zeros(self._shape)
            self._masks[kind][:rows] = mask
        read = self._ids, self._positions, given(self._masks), self._cache
        if not self._size:  # at first libraries allocate what they need
            found = forward(*read).float()
            self._size = found.shape[-1]
            return found
        logits = self._logits
        if logits is None or self._replay is None:
            self._logits = logits = self._owner.room(*self._ids.shape, self._size)
            self._replay = self._owner.record(lambda: logits.copy_(forward(*read)))
        self._replay()
        return logits.clone()


class CudaGraphs:
    """Records CUDA graphs; those of one model share the memory between their operations."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Other threads may run other models meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        return graph.replay
