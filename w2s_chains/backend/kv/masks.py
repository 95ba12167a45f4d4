"""``Window``: how far back the layers of a kind look, as a mask of batches with branches.

A mask hides what a layer may not see, so a text that is longer than a window is read exactly, and
branches share it like any other. What no layer of a model sees any more need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """How far back the layers of a kind look.

    Attributes:
        length: Tokens that a token sees, itself included; None if it sees all before it.
        chunked: Whether texts are cut into chunks of that length, and a token sees its own alone.
    """

    length: int | None = None
    chunked: bool = False

    def first_seen(self, position: int) -> int:
        """Return the first position that a token at a position sees; 0 if windows are chunks.

        transformers counts columns to tell where a chunk begins, so that all must be there.
        """
        if self.length is None or self.chunked:
            return 0
        return max(0, position - self.length + 1)

    def cut(self, mask: Tensor, positions: NDArray[np.int64], filled: int) -> Tensor:
        """Hide what lies outside of the window.

        Args:
            mask: What is added to the attention scores, its lowest number for what is hidden.
                [B, 1, n, columns]
            positions: The position of each column in its branch. [B, columns]
            filled: The first of the n columns that are read.
        """
        if self.length is None:
            return mask
        count = mask.shape[2]
        asking, seen = positions[:, filled : filled + count, None], positions[:, None, :]
        if self.chunked:
            hidden = seen // self.length < asking // self.length
        else:
            hidden = seen <= asking - self.length
        lowest = torch.finfo(mask.dtype).min
        return mask.masked_fill(torch.as_tensor(hidden[:, None]).to(mask.device), lowest)


Windows = Mapping[str, Window]
"""The window of each kind of layers, by the name that transformers has for the kind."""

ALL: Windows = {"": Window()}
"""The windows of a model whose layers see everything."""


def first_seen(windows: Windows, position: int) -> int:
    """Return the first position that a token at a position sees in any layer."""
    return min((window.first_seen(position) for window in windows.values()), default=0)


Mask = Tensor | dict[str, Tensor]
"""An attention mask; where kinds of layers see different windows, one of each kind."""


def given(masks: dict[str, Tensor]) -> Mask:
    """Return masks as transformers' models take them: a single one by itself."""
    return masks if len(masks) > 1 else next(iter(masks.values()))
