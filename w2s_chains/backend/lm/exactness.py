"""Check at load that a model gives the same logits on every path by which a search reads it.

A search reads a text in pieces, onto keys and values it kept, beside longer and shorter texts, and
with siblings in one row. Whether that equals one plain forward depends on the model's architecture:
some count columns instead of taking positions, some build a mask of their own, some are encoders.
So a few tokens are read in all these ways when a model is loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from w2s_chains.backend.lm.kv import Segment
from w2s_chains.errors import UnsupportedModelError, W2SError, brief

if TYPE_CHECKING:
    from w2s_chains.backend.lm.causal_lm import CausalLM

_LENGTH = 8
"""Tokens of each text that is read."""
_CUT = 4
"""Tokens that the longer prefix has; the shorter has half of them."""
_FULL, _HALF = 1e-3, 0.05
"""Largest difference that is rounding, as a share of the logits' norm, in float32 and below."""
_NOISE = 4.0
"""How many times the difference that rounding makes between two plain forwards is still rounding.
In half precision an expert more or less may be chosen, which changes logits a lot."""
_MOST_NOISE = {_FULL: 5e-3, _HALF: 1.0}
"""No noise makes a larger difference rounding."""
_STEPS = 3
"""Tokens that each text goes on with after its prefix."""
_LARGEST_GAP = 2**29
"""Most bytes of keys and values, masked ones between a branch and its past included."""
_WINDOW = re.compile(r"(^|_)(window|window_size|chunk_size|block_size)$")
"""Config fields that may limit how far back a layer looks, whatever its cache says."""
Path = tuple[Segment | None, int]


@torch.inference_mode()
def check_exact(lm: CausalLM) -> bool:
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
    changed = _difference(wanted[2, :-1], wanted[0, :-1])
    rounding = _rounding(lm)
    if changed > rounding:
        raise UnsupportedModelError(
            f"model {lm.name!r} does not read from left to right: another last token changes the "
            f"logits of earlier tokens by {changed:.1%}; use a causal language model, or switch "
            "the model to one in its config if it can be one (is_decoder: true)"
        )

    # The same texts in another shape are rounded in another way.
    longer = torch.cat((ids[:2], ids[:2].flip(0)), dim=1)
    again = _attempt(lm, "a plain forward", lambda: _plain(lm, longer))[:, :_LENGTH]
    noise = max(_difference(again[i], wanted[i]) for i in (0, 1))
    tolerance = max(rounding, min(_NOISE * noise, _MOST_NOISE[rounding]))

    def require(path: str, found: Tensor, expected: Tensor) -> None:
        apart = _difference(found, expected)
        if not apart <= tolerance:
            raise UnsupportedModelError(
                f"model {lm.name!r} is read wrongly by {path}: its logits differ from those of one "
                f"plain forward by {apart:.1%} (at most {tolerance:.1%} is rounding), so that "
                "scores and samples would be wrong; use another model, or another "
                "attn_implementation ('eager' or 'sdpa')"
            )

    prefixes, found = _attempt(lm, "a cached forward", lambda: _prefixes(lm, ids))
    require("a cached forward", found, wanted[:2, :_CUT])
    paths: list[tuple[str, Callable[[], Iterator[tuple[Tensor, Tensor]]]]] = [
        ("incremental reading", lambda: _incremental(lm, ids, wanted, prefixes)),
        ("a batch with padding on the left", lambda: _padded(lm, ids, wanted, prefixes)),
    ]
    for path, run in paths:
        for found, expected in _attempt(lm, path, lambda run=run: list(run())):
            require(path, found, expected)
    return _branches(lm, ids, wanted, prefixes, tolerance)


def _texts(lm: CausalLM) -> Tensor:
    """Make two texts, and the first once more with another last token: [3, n]."""
    config = lm.model.config.to_dict()
    special: set[int] = set()
    for name, value in config.items():
        if name.endswith(("_id", "_ids", "_index")):
            special.update(value if isinstance(value, list) else [value])
    usual = [i for i in range(min(lm.vocabulary_size, lm.rows)) if i not in special] or [0]
    step = max(1, len(usual) // (2 * _LENGTH + 1))
    ids = [usual[(1 + i * step) % len(usual)] for i in range(2 * _LENGTH + 1)]
    first, second, other = ids[:_LENGTH], ids[_LENGTH:-1], ids[-1]
    return torch.tensor([first, second, [*first[:-1], other]], device=lm.device)


def _attempt(lm: CausalLM, path: str, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except (W2SError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # any code of any architecture
        raise UnsupportedModelError(
            f"model {lm.name!r} cannot be read by {path}: {type(error).__name__}: "
            f"{brief(error) or 'no message'}; use another model"
        ) from error


def _plain(lm: CausalLM, ids: Tensor) -> Tensor:
    return lm.model(input_ids=ids, use_cache=False).logits.float()


def _rounding(lm: CausalLM) -> float:
    exact = (torch.float32, torch.float64)
    full = (
        all(weight.dtype in exact for weight in lm.model.parameters())
        and getattr(lm.model.config, "quantization_config", None) is None
        and torch.get_float32_matmul_precision() == "highest"
        and not torch.is_autocast_enabled(lm.device.type)
    )
    return _FULL if full else _HALF


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Return the norm of the difference as a share of the norm, where ``wanted`` is finite."""
    finite = wanted.isfinite()
    if not bool(finite.any()):
        return 0.0
    found, wanted = found[finite], wanted[finite]
    apart, scale = (found - wanted).norm().item(), (wanted - wanted.mean()).norm().item()
    return math.inf if math.isnan(apart) else apart / scale if scale else apart


def _segment(ids: Tensor) -> Segment:
    return Segment(None, 0, ids.tolist())


def _prefixes(lm: CausalLM, ids: Tensor) -> tuple[Sequence[Path], Tensor]:
    """Read the texts' beginnings as prompts are read; return them and their logits."""
    batch = lm.gather([(None, 0)] * 2, width=1, steps=_CUT)
    logits = lm.forward(batch, ids[:2, :_CUT])
    last = lm.forward(
        lm.gather([(None, 0)] * 2, width=1, steps=_CUT), ids[:2, :_CUT], last_only=True
    )
    logits = torch.cat((logits[:, :-1], last), dim=1)
    found: list[Path] = []
    for row, count in enumerate((_CUT, _CUT // 2)):
        segment = _segment(ids[row, : count + 1])
        segment.kv = batch.slice(row, 0, count)
        found.append((segment, count))
    return found, logits


def _go_on(
    lm: CausalLM, paths: Sequence[Path], ids: Tensor, wanted: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read on after each path: a chunk, then one token. Yields the logits and the plain ones."""
    batch = lm.gather(paths, width=1, steps=_STEPS)
    begins = [upto for _, upto in paths]
    fed = torch.stack([ids[i, at : at + _STEPS] for i, at in enumerate(begins)])
    logits = [lm.forward(batch, fed[:, :-1]), lm.forward(batch, fed[:, -1:])]
    found = torch.cat(logits, dim=1)
    for i, at in enumerate(begins):
        yield found[i], wanted[i, at : at + _STEPS]


def _incremental(
    lm: CausalLM, ids: Tensor, wanted: Tensor, prefixes: Sequence[Path]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read on after one prefix alone, so that no row has padding."""
    yield from _go_on(lm, prefixes[:1], ids, wanted)


def _padded(
    lm: CausalLM, ids: Tensor, wanted: Tensor, prefixes: Sequence[Path]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read on after prefixes of unequal length, and beside them a text from its first token."""
    yield from _go_on(lm, [*prefixes, (None, 0)], ids, wanted)


def _branches(
    lm: CausalLM, ids: Tensor, wanted: Tensor, prefixes: Sequence[Path], tolerance: float
) -> bool:
    """Try whether a branch is the same with a sibling beside it, at once and column by column."""
    if not lm.takes_positions:
        return False
    gap = window_of(lm.model.config)
    columns = _CUT + 1 + 2 * (gap + 2)
    if gap and columns * lm.bytes_per_token > _LARGEST_GAP:
        return False
    runs = [lambda: _at_once(lm, ids, prefixes), lambda: _by_column(lm, ids, prefixes, gap)]
    try:
        return all(
            _difference(found, wanted[i, upto : upto + _STEPS]) <= tolerance
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


def _at_once(lm: CausalLM, ids: Tensor, prefixes: Sequence[Path]) -> Found:
    """Read all columns of two branches in one forward pass, as guides read given texts."""
    fed = torch.stack([_columns(ids, i, upto) for i, (_, upto) in enumerate(prefixes)])
    logits = lm.forward(lm.gather(prefixes, width=2, steps=_STEPS), fed)
    for i, (_, upto) in enumerate(prefixes):
        yield i, upto, logits[i, 0::2]


def _by_column(lm: CausalLM, ids: Tensor, prefixes: Sequence[Path], gap: int) -> Found:
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


def window_of(config: Any) -> int:
    """Return the longest window that a config names, 0 if none.

    Some models cut the window out of their own mask, and keep an ordinary cache.
    """
    values = config.get_text_config(decoder=True).to_dict()
    named = [value for name, value in values.items() if _WINDOW.search(name)]
    return max((value for value in named if type(value) is int), default=0)
