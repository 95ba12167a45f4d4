"""Check at load that a model gives the same logits on every path by which a search reads it.

A search reads a text in pieces, onto keys and values it kept, beside longer and shorter texts, and
with siblings in one row. Whether that equals one plain forward depends on the model's architecture:
some count columns instead of taking positions, some build a mask of their own, some are encoders.
So a few tokens are read in all these ways when a model is loaded.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from w2s_chains.backend.kv.batch import Batch, Path
from w2s_chains.backend.kv.memory import Memory
from w2s_chains.backend.kv.segment import Segment
from w2s_chains.backend.lm.logits import to_lists
from w2s_chains.backend.lm.positions import window_of
from w2s_chains.errors import UnsupportedModelError, W2SError, brief

_LENGTH = 8
"""Tokens of each text that is read."""
_CUT = 4
"""Tokens that the longer prefix has; the shorter has half of them."""
_FULL, _HALF = 1e-4, 0.02
"""Largest difference that is rounding, as a share of the logits' norm, in float32 and below."""
_UNSEEN = {_FULL: 1e-4, _HALF: 1e-3}
"""The same for logits of tokens before those that differ, which are computed in the same way."""
_NOISE = 4.0
"""How many times the difference that rounding makes between two plain forwards is still rounding.
In half precision an expert more or less may be chosen, which changes logits a lot."""
_MOST_NOISE = 20
"""How far noise may raise the limit."""
_CACHED = "a cached forward"
_STEPS = 3
"""Tokens that each text goes on with after its prefix."""
_LARGEST_GAP = 2**29
"""Most bytes of keys and values, masked ones between a branch and its past included."""


class Reader(Protocol):
    """What the check needs of a ``CausalLM``."""

    model: Any
    device: torch.device
    memory: Memory
    takes_positions: bool
    first_position: int
    recurrent: bool

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def vocabulary_size(self) -> int: ...

    def gather(self, paths: Sequence[Path], *, width: int, steps: int) -> Batch: ...
    def forward(self, batch: Batch, ids: Tensor, last_only: bool = False) -> Tensor: ...


@torch.inference_mode()
def check_exact(lm: Reader) -> bool:
    """Compare each way of reading a model with one plain forward.

    A model whose plain logits are not finite has nothing to compare with; a search that samples
    from it says so.

    Returns:
        Whether branches may share a row: siblings that lie beside each other change nothing.

    Raises:
        UnsupportedModelError: Later tokens change earlier logits, or a way of reading a text
            without branches differs by more than rounding.
    """
    ids = _texts(lm)
    wanted = _attempt(lm, "a plain forward", lambda: _plain(lm, ids))
    rounding = _rounding(lm)
    # Another text below may change the rounding, as it changes how many tokens an expert gets.
    beside = _attempt(lm, "a plain forward", lambda: _plain(lm, ids[[0, 1, 1]]))[0]
    changed = difference(wanted[2, :-1], wanted[0, :-1])
    if not changed <= max(_UNSEEN[rounding], _NOISE * difference(beside, wanted[0])):
        raise UnsupportedModelError(
            f"model {lm.name!r} does not read from left to right: another last token changes the "
            f"logits of earlier tokens by {changed:.1%}; use a causal language model, or switch "
            "the model to one in its config if it can be one (is_decoder: true)"
        )

    # The same texts in another shape are rounded in another way.
    longer = torch.cat((ids[:2], ids[:2].flip(0)), dim=1)
    again = _attempt(lm, "a plain forward", lambda: _plain(lm, longer))[:, :_LENGTH]
    noise = max(difference(again[i], wanted[i]) for i in (0, 1))
    tolerance = max(rounding, min(_NOISE * noise, _MOST_NOISE * rounding))

    errors: list[UnsupportedModelError] = []
    for applies in (_as_it_is, _own_windows, _positions_after_padding):
        if applies(lm):
            try:
                prefixes = _check_paths(lm, ids, wanted, tolerance)
                return _branches(lm, ids, wanted, prefixes, tolerance)
            except UnsupportedModelError as error:
                errors.append(error)
    raise errors[0]


def _as_it_is(lm: Reader) -> bool:
    return True


def _own_windows(lm: Reader) -> bool:
    """Keep all of a path for a model whose code took its windows from its config at once."""
    before, lm.memory.whole = lm.memory.whole, True
    return not before


def _positions_after_padding(lm: Reader) -> bool:
    """Number positions from the one after the padding token's, as some models do (RoBERTa)."""
    padding = getattr(lm.model.config, "pad_token_id", None)
    if not lm.takes_positions or not isinstance(padding, int) or padding < 0:
        return False
    lm.first_position = padding + 1
    return True


def _check_paths(lm: Reader, ids: Tensor, wanted: Tensor, tolerance: float) -> Sequence[Path]:
    """Compare each way without branches; return the prefixes that were read."""

    def require(path: str, found: Tensor, expected: Tensor) -> None:
        apart = difference(found, expected)
        if not apart <= tolerance:
            raise UnsupportedModelError(
                f"model {lm.name!r} is read wrongly by {path}: its logits differ from those of one "
                f"plain forward by {apart:.2%} (at most {tolerance:.2%} is rounding), so that "
                "scores and samples would be wrong; use another model, or another "
                "attn_implementation ('eager' or 'sdpa')"
            )

    def begin() -> tuple[Sequence[Path], Tensor]:
        return _attempt(lm, _CACHED, lambda: _prefixes(lm, ids))

    try:
        prefixes, found = begin()
    except UnsupportedModelError as error:
        if "view size is not compatible" not in str(error):
            raise
        lm.memory.layers.contiguous = True
        prefixes, found = begin()
    require(_CACHED, found, wanted[:2, :_CUT])
    for path, begins in (
        ("incremental reading", prefixes[:1]),
        ("a batch with padding on the left", [*prefixes, (None, 0)]),
    ):
        found = _attempt(lm, path, lambda begins=begins: _go_on(lm, begins, ids))
        for i, (_, upto) in enumerate(begins):
            require(path, found[i], wanted[i, upto : upto + _STEPS])
    return prefixes


def _texts(lm: Reader) -> Tensor:
    """Make two texts, and the first once more with another last token: [3, n]."""
    ids = usual_tokens(lm.model.config, min(lm.vocabulary_size, lm.rows), 2 * _LENGTH + 1)
    first, second, other = ids[:_LENGTH], ids[_LENGTH:-1], ids[-1]
    return torch.tensor([first, second, [*first[:-1], other]], device=lm.device)


def usual_tokens(config: Any, size: int, count: int) -> list[int]:
    """Return so many tokens below ``size`` that a model's config names nowhere as special."""
    special: set[int] = set()
    for name, value in config.to_dict().items():
        if name.endswith(("_id", "_ids", "_index")):
            several = cast("list[Any]", value) if isinstance(value, list) else [value]
            special.update(i for i in several if isinstance(i, int))
    usual = [i for i in range(size) if i not in special] or [0]
    step = max(1, len(usual) // count)
    return [usual[(1 + i * step) % len(usual)] for i in range(count)]


def _attempt(lm: Reader, path: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except (W2SError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any code of any architecture
        line = traceback.extract_tb(error.__traceback__)[-1].line
        raise UnsupportedModelError(
            f"model {lm.name!r} cannot be read by {path}: {type(error).__name__}: "
            f"{brief(error) or line or 'no message'}; use another model"
        ) from error


def _plain(lm: Reader, ids: Tensor) -> Tensor:
    return lm.model(input_ids=ids, use_cache=False).logits.float()


def _rounding(lm: Reader) -> float:
    exact = (torch.float32, torch.float64)
    full = (
        all(weight.dtype in exact for weight in lm.model.parameters())
        and getattr(lm.model.config, "quantization_config", None) is None
        and torch.get_float32_matmul_precision() == "highest"
        and not torch.is_autocast_enabled(lm.device.type)
    )
    return _FULL if full else _HALF


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference as a share of the norm, where ``wanted`` is finite."""
    finite = wanted.isfinite()
    if not bool(finite.any()):
        return 0.0
    found, wanted = found[finite], wanted[finite]
    apart = (found - wanted).square().sum().sqrt().item()
    scale = (wanted - wanted.mean()).square().sum().sqrt().item()
    return math.inf if math.isnan(apart) else apart / scale if scale else apart


def _prefixes(lm: Reader, ids: Tensor) -> tuple[Sequence[Path], Tensor]:
    """Read the texts' beginnings as prompts are read; return them and their logits."""
    batch = lm.gather([(None, 0)] * 2, width=1, steps=_CUT)
    logits = lm.forward(batch, ids[:2, :_CUT])
    last = lm.forward(
        lm.gather([(None, 0)] * 2, width=1, steps=_CUT), ids[:2, :_CUT], last_only=True
    )
    logits = torch.cat((logits[:, :-1], last), dim=1)
    found: list[Path] = []
    for row, count in enumerate((_CUT, _CUT // 2)):
        segment = Segment(None, 0, to_lists(ids[row, : count + 1]))
        batch.keep([(segment, row, 0, count)])
        found.append((segment, count))
    return found, logits


def _go_on(lm: Reader, paths: Sequence[Path], ids: Tensor) -> Tensor:
    """Read on after each path, a chunk and then one token: [B, steps, V].

    After one path alone there is no padding, and transformers leaves out the mask.
    """
    batch = lm.gather(paths, width=1, steps=_STEPS)
    fed = torch.stack([ids[i, upto : upto + _STEPS] for i, (_, upto) in enumerate(paths)])
    return torch.cat((lm.forward(batch, fed[:, :-1]), lm.forward(batch, fed[:, -1:])), dim=1)


def _branches(
    lm: Reader, ids: Tensor, wanted: Tensor, prefixes: Sequence[Path], tolerance: float
) -> bool:
    """Try whether a branch is the same with a sibling beside it, at once and column by column."""
    if lm.recurrent or not lm.takes_positions:
        return False
    gap = window_of(lm.model.config)
    columns = _CUT + 1 + 2 * (gap + 2)
    if gap and columns * lm.memory.bytes_per_token > _LARGEST_GAP:
        return False
    runs = [lambda: _at_once(lm, ids, prefixes), lambda: _by_column(lm, ids, prefixes, gap)]
    try:
        return all(
            difference(found, wanted[i, upto : upto + _STEPS]) <= tolerance
            for run in runs
            for i, upto, found in run()
        )
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False


Found = Iterator[tuple[int, int, Tensor]]


def _columns(ids: Tensor, row: int, upto: int) -> Tensor:
    """The shared token, then for each step one of the sibling and one of the text itself."""
    own = ids[row, upto : upto + _STEPS]
    sibling = ids[row].flip(0)[: _STEPS - 1]  # other tokens, which the branch must not see
    return torch.cat((own[:1], torch.stack((sibling, own[1:]), dim=1).flatten()))


def _at_once(lm: Reader, ids: Tensor, prefixes: Sequence[Path]) -> Found:
    """Read all columns of two branches in one forward pass, as guides read given texts."""
    fed = torch.stack([_columns(ids, i, upto) for i, (_, upto) in enumerate(prefixes)])
    logits = lm.forward(lm.gather(prefixes, width=2, steps=_STEPS), fed)
    for i, (_, upto) in enumerate(prefixes):
        yield i, upto, logits[i, 0::2]


def _by_column(lm: Reader, ids: Tensor, prefixes: Sequence[Path], gap: int) -> Found:
    """Read two branches step by step, as chunks are sampled, with ``gap`` masked ones before them.

    A model that counts columns would have its window end within the gap.
    """
    width = gap + 2
    prefixes = prefixes[:1] if gap else prefixes
    fed = torch.stack([_columns(ids, i, upto) for i, (_, upto) in enumerate(prefixes)])
    batch = lm.gather(prefixes, width=width, steps=_STEPS)
    for own in (own for kv in batch.kv for own in kv):
        own[..., batch.fork :, :] = 0
    found = [lm.forward(batch, fed[:, :1])]
    for step in range(_STEPS - 1):
        batch.filled += gap
        found.append(lm.forward(batch, fed[:, 1 + 2 * step : 3 + 2 * step])[:, 1:])
    logits = torch.cat(found, dim=1)
    for i, (_, upto) in enumerate(prefixes):
        yield i, upto, logits[i]
