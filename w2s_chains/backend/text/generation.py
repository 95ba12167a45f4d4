"""What a model's generation config says: its end tokens, tokens it never says, and what is ignored.

How to sample is said by the caller alone (temperature, filters, the repetition penalty, lengths).
The rest of what ``generate`` would do with the config is either respected here or warned of.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple
from weakref import WeakSet

from w2s_chains.errors import GenerationConfigWarning, brief

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "bad_words_ids",
            "constraints",
            "dola_layers",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "force_words_ids",
            "sequence_bias",
            "stop_strings",
            "watermarking_config",
        ),
        (),
    ),
    **dict.fromkeys(
        (
            "encoder_no_repeat_ngram_size",
            "epsilon_cutoff",
            "eta_cutoff",
            "min_length",
            "min_new_tokens",
            "no_repeat_ngram_size",
            "penalty_alpha",
            "token_healing",
        ),
        (0,),
    ),
    "encoder_repetition_penalty": (1,),
    "guidance_scale": (1,),
    "top_h": (1,),
    "typical_p": (1,),
}
"""Options of transformers that change what is sampled and that we lack, with the values that change
nothing; None and what is empty never do."""
_OURS = {"stop_strings": "stop"}
"""Our own option for the same."""


class Suppressed(NamedTuple):
    """Tokens that a model does not say.

    Attributes:
        ids: Those that are never sampled.
        first: Those that are not sampled as the first token of an answer.
    """

    ids: tuple[int, ...] = ()
    first: tuple[int, ...] = ()


_told: WeakSet[Any] = WeakSet()
"""Models whose options were warned of."""


def end_ids(generation: Any) -> list[int]:
    """Return the tokens that end an answer, says a generation config (or None)."""
    ends = getattr(generation, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def suppressed_by(generation: Any) -> Suppressed:
    """Return what a generation config suppresses: listed tokens, and bad words of one token.

    Like transformers, keep end tokens that are bad words.
    """
    words: Any = getattr(generation, "bad_words_ids", None) or []
    single = {word[0] for word in words if len(word) == 1} - set(end_ids(generation))
    always = single | set(getattr(generation, "suppress_tokens", None) or [])
    first = set(getattr(generation, "begin_suppress_tokens", None) or [])
    return Suppressed(tuple(sorted(always)), tuple(sorted(first)))


def warn_of_ignored(name: str, model: Any) -> None:
    """Warn, once for a model, of options in its generation config that change nothing here.

    Args:
        name: The model's name, for the message.
        model: A transformers model that answers are sampled from.
    """
    ignored = _ignored(getattr(model, "generation_config", None))
    if not ignored or model in _told:
        return
    _told.add(model)
    told = ", ".join(f"{option} ({brief(repr(value))})" for option, value in ignored.items())
    own = [f"give our own {_OURS[option]} for {option}" for option in ignored if option in _OURS]
    remedy = "; ".join([*own, "take them out of the file if they do not matter"])
    warnings.warn(
        f"the generation config of model {name!r} sets options that w2s_chains does not have, so "
        f"its answers are sampled without them: {told}; {remedy}",
        GenerationConfigWarning,
        stacklevel=2,
    )


def _ignored(generation: Any) -> dict[str, Any]:
    found = {option: getattr(generation, option, None) for option in _NEUTRAL}
    words: Any = found["bad_words_ids"] or []
    found["bad_words_ids"] = [word for word in words if len(word) > 1]
    return {
        option: value
        for option, value in found.items()
        if value not in (None, [], {}, ()) and value not in _NEUTRAL[option]
    }
