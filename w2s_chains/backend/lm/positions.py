"""What a model's config says of positions: how long texts may be, and how they are read then."""

from __future__ import annotations

import re
from typing import Any

from w2s_chains.errors import PromptError

_WINDOW = re.compile(r"(^|_)(window|window_size|chunk_size|block_size)$")
"""Config fields that may limit how far back a layer looks, whatever its cache says."""


def text_config(config: Any) -> Any:
    """Return the part of a model's config that is about text."""
    return config.get_text_config(decoder=True)


def window_of(config: Any) -> int:
    """Return the longest window that a config names, 0 if none.

    Some models cut the window out of their own mask, and keep an ordinary cache.
    """
    values = text_config(config).to_dict()
    named = [value for name, value in values.items() if _WINDOW.search(name)]
    return max((value for value in named if type(value) is int), default=0)


def longest_text(config: Any) -> int | None:
    """Return how many positions a model has, in tokens; None if its config does not say.

    Rotary positions that are stretched by a factor (linear, YaRN) reach as much further than the
    text that the model was trained on at first. vLLM has the same rule.
    """
    text = text_config(config)
    limit: int | None = getattr(text, "max_position_embeddings", None)
    # From here on Inkling (not Inkling 2) counts columns, those of padding among them.
    floor: int | None = getattr(text, "log_scaling_n_floor", None)
    if floor is not None and text.model_type == "inkling_text":
        limit = floor if limit is None else min(limit, floor)
    rope: Any = getattr(text, "rope_parameters", None) or {}
    if limit is None or rope.get("rope_type") not in ("linear", "yarn"):
        return limit
    trained: int = rope.get("original_max_position_embeddings") or limit
    return max(limit, int(trained * (rope.get("factor") or 1.0)))


def rope_border(config: Any) -> int | None:
    """Return the length beyond which a model reads texts in another way (LongRoPE), if any.

    All texts of a batch are then read as the longest is, which a few tokens cannot show.
    """
    rope: Any = getattr(text_config(config), "rope_parameters", None) or {}
    kinds: list[Any] = [rope, *(own for own in rope.values() if isinstance(own, dict))]
    borders: list[Any] = [
        kind.get("original_max_position_embeddings")
        for kind in kinds
        if kind.get("rope_type") == "longrope"
    ]
    return min((border for border in borders if border), default=None)


def check_border(name: str, border: int | None, prompt: int, total: int) -> None:
    """Check that an answer does not begin below the border (``rope_border``) and end above it.

    Args:
        name: The model's name.
        border: The length beyond which it reads texts in another way, if any.
        prompt: Tokens of the prompt.
        total: Tokens of prompt and answer.

    Raises:
        PromptError: It does: what was read below would have to be read anew.
    """
    if border is not None and prompt <= border + 1 and total > border:
        raise PromptError(
            f"model {name!r} reads texts beyond {border} tokens in another way (LongRoPE), so no "
            f"answer may cross that length, but the prompt has {prompt} tokens and the text may "
            f"have {total}; lower max_tokens or shorten the prompt, or give at least {border + 2} "
            "tokens"
        )
