"""``Boundaries``: places in a growing text that no token spans, whatever the text becomes.

Most tokenizers cut a text into pieces by a regular expression, and make tokens of each piece by
itself. We look for two neighbouring characters that no piece of any text holds. The text up to
there and the text from there on then have the tokens that each of them has alone, and when a text
grows, it is tokenised again from the last such place on.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import models
from transformers import PreTrainedTokenizerFast

_ENDING = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_FIRST = r"[^\r\n\p{L}\p{N}]?"
_PATTERNS = frozenset((
    # GPT-2
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Llama 3
    _ENDING + "|" + _FIRST + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
    # Qwen 2 and 3
    _ENDING + "|" + _FIRST + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES,
    # Qwen 3.5
    _ENDING + "|" + _FIRST + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES,
    # Mistral's Tekken
    f"{_FIRST}{_UPPER}*{_LOWER}+|{_FIRST}{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES,
    # GPT-4o, Llama 4
    f"{_FIRST}{_UPPER}*{_LOWER}+{_ENDING}?|{_FIRST}{_UPPER}+{_LOWER}*{_ENDING}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES,
))  # fmt: skip
"""Patterns of which no match holds two characters that are ``_apart``.

A match is a run of spaces; or at most one character, no line break, before a run of letters and
marks; or a run of digits or other visible characters after at most one space. An apostrophe with
letters may follow letters; line breaks and slashes may follow other visible characters. Every
character can begin a match, so nothing lies between matches, and no match depends on what is before
it. Only spaces look ahead, at the one character after them."""

_PROBE = (
    "I'll say:  it's 3.14 \t(or 1234567)!\r\n\n  naïve cafe\u0301s, Ещё раз; 日本語。「한국어」"
    "\u3000ที่ नमस्ते \u1112\u1161\u11ab! 👩🏽\u200d🚀 "
    "<s>user\n<|im_end|>x = [a_b, c];\u00a0\x00 \r\n\nok  "
)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in prompt and response, tokenised as one text, that no later text moves.

    Attributes:
        at: Characters before it.
        tokens: Tokens before it, start tokens included.
    """

    at: int
    tokens: int


class Boundaries:
    """The places that no token of one tokenizer spans.

    There are none inside a word, a run of digits or a run of spaces, however long it is.
    """

    def __init__(self, added: Iterable[str]) -> None:
        """Take the added tokens, which the tokenizer finds before it cuts the text."""
        self._begun = _beginnings(added)

    def last(self, text: str) -> int:
        """Return the last place in a text that begins at such a place; 0 if there is no other."""
        for at in range(len(text) - 1, 0, -1):
            # What looks like the beginning of an added token may become one.
            if _apart(text[at - 1], text[at]) and not text.endswith(self._begun, 0, at):
                return at
        return 0


def find_boundaries(hf_tokenizer: Any) -> Boundaries | None:
    """Return the boundaries of a tokenizer; None if it may cut a text in ways that we do not know.

    Args:
        hf_tokenizer: A transformers tokenizer, which is not used elsewhere meanwhile.
    """
    if not _encodes_by_rust(hf_tokenizer):
        return None
    rust = hf_tokenizer.backend_tokenizer
    normalizer, cutters = _parts(rust.normalizer), _parts(rust.pre_tokenizer)
    added = rust.get_added_tokens_decoder().values()
    # These are found in normalized text, whose characters may be others.
    normalized = [unicodedata.normalize("NFC", t.content) for t in added if t.normalized]
    if (
        normalizer not in ([], [{"type": "NFC"}])
        or not _cut_apart(cutters)
        or not isinstance(rust.model, models.BPE)
        or rust.model.dropout  # tokens by chance
        or any(token.lstrip or token.rstrip or token.single_word for token in added)
        or (normalizer and _beginnings(normalized))
    ):
        return None
    boundaries = Boundaries(token.content for token in added)
    return boundaries if _hold(boundaries, hf_tokenizer) else None


def _encodes_by_rust(hf_tokenizer: Any) -> bool:
    """Return whether a text reaches the Rust tokenizer as it is, control tokens included."""
    kinds = type(hf_tokenizer).__mro__
    if PreTrainedTokenizerFast not in kinds or hf_tokenizer.split_special_tokens:
        return False
    own = kinds[: kinds.index(PreTrainedTokenizerFast)]
    return not any({"__call__", "_encode_plus"} & set(vars(kind)) for kind in own)


def _parts(component: Any) -> list[Mapping[str, Any]]:
    """Return what a normalizer or a pre-tokenizer consists of, as tokenizer.json has it."""
    if component is None:
        return []
    try:
        state = json.loads(component.__getstate__())
    except Exception:  # the library raises plain exceptions for those written in Python
        return [{"type": "custom"}]
    return state.get("pretokenizers") or state.get("normalizers") or [state]


def _cut_apart(cutters: list[Mapping[str, Any]]) -> bool:
    """Return whether these pre-tokenizers, one after another, cut all that is ``_apart``.

    One of them must do it; the others only cut between or around digits, which are not apart.
    """
    *before, last = cutters or [{}]
    spelled = last.get("type") == "ByteLevel" and not last["add_prefix_space"]
    splits = [cutter for cutter in before if cutter["type"] != "Digits"]
    known = all(
        cutter["type"] == "Split"
        and cutter["pattern"].get("Regex") in _PATTERNS
        and cutter["behavior"] == "Isolated"
        and not cutter["invert"]
        for cutter in splits
    )
    return spelled and known and bool(splits or last["use_regex"])


def _hold(boundaries: Boundaries, hf_tokenizer: Any) -> bool:
    """Return whether a text of many kinds has the tokens of its two sides, at every place."""
    places = {boundaries.last(_PROBE[:end]) for end in range(1, len(_PROBE) + 1)}
    sides = [side for at in places for side in (_PROBE[:at], _PROBE[at:])]
    whole, *ids = hf_tokenizer([_PROBE, *sides], add_special_tokens=False)["input_ids"]
    return all([*left, *right] == whole for left, right in zip(ids[::2], ids[1::2], strict=True))


def _beginnings(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the beginnings of texts up to each two characters that are ``_apart``."""
    found = {
        text[:at] for text in texts for at in range(1, len(text)) if _apart(*text[at - 1 : at + 1])
    }
    return tuple(sorted(found))


def _apart(left: str, right: str) -> bool:
    """Return whether no piece of any text holds these neighbours, and none composes with one."""
    kinds = _kind(left), _kind(right)
    return kinds in _APART and unicodedata.is_normalized("NFC", left + right)


_APART = frozenset({
    *((visible, "space") for visible in ("letter", "symbol", "other")),
    ("letter", "symbol"),
    ("letter", "line"),
})  # fmt: skip
"""The left one is always visible, or looking ahead from spaces before the place saw the end."""


@functools.lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """Return what a character is for all versions of Unicode since 3.2; else an empty text."""
    category = unicodedata.category(character)
    if character in "\r\n":
        return "line"
    if character == "\t":
        return "space"
    if category != unicodedata.ucd_3_2_0.category(character) or category[0] == "C":
        return ""
    if category[0] in "PS" and character != "'":  # an apostrophe may go on with letters
        return "symbol"
    return {"L": "letter", "Z": "space" if category == "Zs" else ""}.get(category[0], "other")


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """Return the length of the longest common prefix."""
    shorter = min(len(a), len(b))
    if tuple(a[:shorter]) == tuple(b[:shorter]):
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
