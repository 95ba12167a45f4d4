"""``shortest_ending``: find a short text that completes what a grammar has begun to read.

Grammars are read byte by byte here, so that the results hold for every vocabulary. Reading a byte
takes microseconds.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

_END = 256
"""The end token of the byte vocabulary."""
_MOST_DEEP = 5000
"""States that the depth-first search looks at."""
_LONGEST_RUN = 2**16
"""Times that one byte is repeated to fill a string that is too short."""
_RANDOM_TEXTS = 4
_RANDOM_BYTES = 500
_FEW_BYTES = 50
"""Number and length of the random texts that are tried where nothing else leads on."""
_MANY = 16
"""If more bytes than this may follow, most of them are assumed to lead to the same state."""
_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("\\")}
"""Printable ASCII without the backslash."""
_CLOSING = b"}])"
_STRUCTURE = (b",", b":", b"[", b"{", b"(", b"]", b"}", b")")
_NUMERIC = b"-0123456789"
_BOUNDS = (*_STRUCTURE, b'"')
_RANK = {byte: rank for rank, byte in enumerate(b'}])"')} | dict.fromkeys(b",[{\\", 300)
"""Order of the bytes in the depth-first search: first those that close, last those that open."""


class _Bytes:
    """A vocabulary with one token for each byte, as llguidance expects a tokenizer."""

    eos_token_id = _END
    bos_token_id = None
    tokens: Sequence[bytes] = (*(bytes([byte]) for byte in range(256)), b"<end>")
    special_token_ids = (_END,)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def byte_tokenizer() -> LLTokenizer:
    """Return the tokenizer with which matchers read single bytes."""
    return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])


def completes(state: LLMatcher, ending: bytes) -> bool:
    """Check whether ``ending`` may follow and the text may end after it."""
    return state.validate_tokens([*ending, _END]) == len(ending) + 1


def next_bytes(state: LLMatcher) -> tuple[int, ...]:
    """Return the bytes that may follow."""
    return _set_bits(state.compute_bitmask())


def shortest_ending(
    state: LLMatcher,
    *,
    hint: bytes = b"",
    words: Sequence[bytes] = (),
    most_nodes: int = 10_000,
    patience: int = 0,
    cost: Callable[[bytes], float] = len,
    enough: float = -1,
) -> bytes | None:
    """Find a short text that completes what ``state`` has read.

    First we search for the shortest (Dijkstra over bytes). If that takes too long, we search for
    any, depth first: those states first whose like was seldom seen, closing brackets and quotes as
    early as possible. Both skip bytes that seem to lead nowhere new, so the result may not be the
    shortest, but the grammar always accepts it.

    Args:
        state: A matcher of bytes; not changed.
        hint: A text; one of its ends is likely to complete this text too, after some more bytes.
        words: Texts that are likely to lead on where a pattern must match; see ``words_of``.
        most_nodes: States that the first search looks at; 10,000 take at most about half a second.
        patience: Continue until texts are this many bytes longer than the shortest one found, and
            take the cheapest.
        cost: Cost of a text; an infinite cost rules it out.
        enough: Take the first text that costs at most this.

    Returns:
        The text; None if none was found.
    """
    found = _search(state, hint, words, most_nodes, patience, cost, enough)
    if found is None:
        found = _search(state, hint, words, _MOST_DEEP, 0, cost, float("inf"), deep=True)
    return found


def _search(
    state: LLMatcher,
    hint: bytes,
    words: Sequence[bytes],
    most_nodes: int,
    patience: int,
    cost: Callable[[bytes], float],
    enough: float,
    deep: bool = False,
) -> bytes | None:
    best: bytes | None = None
    lowest = longest = float("inf")
    entry = itertools.count()
    frontier = [((0, 0, 0), next(entry), 0, b"", b"", state.deep_copy())]
    seen: set[tuple[object, ...]] = set()
    looked_at = Counter[tuple[object, ...]]()
    kinds = _Kinds(words)
    for _ in range(most_nodes):
        if not frontier:
            break
        _, _, depth, text, name, node = heapq.heappop(frontier)
        if len(text) >= longest:
            break
        mask = node.compute_bitmask()
        # Texts count as the same state if they have the same structure and their last parts are
        # equally long, wherever those began.
        place = (mask, name, len(_last_part(text)), *map(text.count, _STRUCTURE))
        if place in seen:
            continue
        seen.add(place)
        looked_at[name, *place[3:], mask] += 1
        ending = _known_ending(node, _set_bits(mask), hint)
        if ending is not None and (price := cost(text + ending)) < lowest:
            best, lowest = text + ending, price
            longest = min(longest, len(best) + patience)
            if lowest <= enough:
                break
        for rank, step, child in _children(node, mask, name, kinds):
            longer = text + step
            latest = _name(longer, step) if len(step) > 1 else name
            order = (len(longer), _digits(longer), 0)
            if deep:
                alike = (latest, *map(longer.count, _STRUCTURE), child.compute_bitmask())
                order = (looked_at[alike], -depth, rank)
            heapq.heappush(frontier, (order, next(entry), depth + 1, longer, latest, child))
    return best


def _last_part(text: bytes) -> bytes:
    """Return what follows the last bracket, quote, comma or colon."""
    return text[max(map(text.rfind, _BOUNDS)) + 1 :]


def _name(text: bytes, forced: bytes) -> bytes:
    """Return the bytes that were forced, but of a property the whole name."""
    if b'": ' not in forced:
        return forced
    return text[text.rfind(b'"', 0, text.rfind(b'": ')) :]


def _digits(text: bytes) -> int:
    """Count digits and minus signs: of equally long texts, fewer tend to mean fewer tokens."""
    return len(text) - len(text.translate(None, _NUMERIC))


def _known_ending(node: LLMatcher, allowed: Sequence[int], hint: bytes) -> bytes | None:
    if node.is_accepting():
        return b""
    starts = (at for at in reversed(range(len(hint))) if hint[at] in allowed)
    return next((hint[at:] for at in starts if completes(node, hint[at:])), None)


class _Kinds:
    """Which of many possible bytes are worth following; one search learns it as it goes.

    Attributes:
        words: Texts that may lead on.
        reps: One byte of each kind, by the mask of what may follow and the last forced text.
        found: The way on that was found last, by keys like those of ``reps``; empty for states
            from which none was found.
        offered: Keys of states after which the words were tried.
    """

    def __init__(self, words: Sequence[bytes]) -> None:
        self.words = words
        self.reps: dict[tuple[bytes, bytes], list[int]] = {}
        self.offered: set[tuple[bytes, bytes]] = set()
        self.found: dict[tuple[bytes, bytes], bytes] = {}


def _children(
    node: LLMatcher, mask: bytes, name: bytes, kinds: _Kinds
) -> list[tuple[int, bytes, LLMatcher]]:
    """List the ways on from a state: each byte with the bytes that it forces.

    If many bytes may follow, we take one of each kind. We drop a byte after which exactly the same
    may follow, such as one more letter in a string, unless it closes something. If nothing is
    left, as in a string that is still too short, we guess a way on.

    Args:
        node: The state.
        mask: The bytes that may follow, one bit each.
        name: The last forced text before this state; that of a property is whole.
        kinds: What this search has learnt so far.

    Returns:
        Rank, bytes, and the state after them.
    """
    allowed = _set_bits(mask)
    many = len(allowed) > _MANY
    if many:
        if kinds.found.get((mask, name)) == b"":
            return []
        allowed = kinds.reps.get((mask, name)) or _plain(mask)
    known: set[tuple[bytes, bytes]] = set()
    ways: list[tuple[int, bytes, LLMatcher]] = []
    loops: list[tuple[int, bytes, LLMatcher]] = []
    for byte in sorted(allowed, key=_NUMERIC.__contains__):
        child = node.deep_copy()
        child.consume_token(byte)
        forced = child.compute_ff_bytes()
        child.try_consume_tokens(list(forced))
        step = bytes([byte]) + forced
        place = (child.compute_bitmask(), step if forced else b"")
        stays = place == (mask, b"")
        alike = many or (not forced and bytes([byte]) not in _BOUNDS)
        if alike and place in known:
            continue
        known.add(place)
        way = (_RANK.get(byte, byte), step, child)
        (loops if stays and byte not in _CLOSING else ways).append(way)
    if many and ways:
        kinds.reps[mask, name] = [step[0] for _, step, _ in (*ways, *loops)]
    elif many:
        step = kinds.found.get((mask, name), b"")
        if not step or not _leads_on(node, mask, step):
            step = kinds.found[mask, name] = _way_on(node, mask, kinds.words)
        ways = _by_words(node, [step] if step else [])
    elif loops and not ways:  # digits, whose sum may matter
        if (step := kinds.found.get((mask, name))) is None:
            step = kinds.found[mask, name] = _random_way_on(node, mask, allowed, _FEW_BYTES)
        ways = [*loops, *_by_words(node, [step] if step else [])]
    if many and (mask, name) not in kinds.offered:
        kinds.offered.add((mask, name))
        ways += _by_words(node, kinds.words)
    return ways


def _by_words(node: LLMatcher, words: Sequence[bytes]) -> list[tuple[int, bytes, LLMatcher]]:
    found: list[tuple[int, bytes, LLMatcher]] = []
    for word in words:
        child = node.deep_copy()
        if child.try_consume_tokens(list(word)) == len(word):
            found.append((0, word, child))
    return found


def _way_on(node: LLMatcher, mask: bytes, words: Sequence[bytes]) -> bytes:
    """Find bytes after which something else than ``mask`` may follow; empty if none were found.

    We try the ends of words, then one byte many times, after each word and alone, which is enough
    for a string that is too short, and then a few random texts.
    """
    plain = _plain(mask)
    for word in words:
        for at in reversed(range(len(word))):
            if _leads_on(node, mask, word[at:]):
                return word[at:]
    for word in (*words, b""):
        if (run := _shortest_run(node, mask, word, bytes(plain[:1]))) is not None:
            return word + run
    return _random_way_on(node, mask, plain, _RANDOM_BYTES)


def _leads_on(node: LLMatcher, mask: bytes, text: bytes) -> bool:
    """Check whether ``text`` may follow, and something else than ``mask`` after it."""
    state = node.deep_copy()
    taken = state.try_consume_tokens(list(text)) == len(text)
    return taken and state.compute_bitmask() != mask


def _shortest_run(node: LLMatcher, mask: bytes, word: bytes, byte: bytes) -> bytes | None:
    """Return how often ``byte`` must follow ``word`` until something else than ``mask`` may."""
    state = node.deep_copy()
    if state.try_consume_tokens(list(word)) < len(word):
        return None
    size, before = 1, state.deep_copy()
    while size <= _LONGEST_RUN:
        before = state.deep_copy()
        if state.try_consume_tokens(list(byte * size)) < size:
            break
        if state.compute_bitmask() != mask:
            break
        size *= 2
    else:
        return None
    # Between these: ``size - 1`` bytes were too few, and ``size`` more are enough or too many.
    few, enough = 0, size
    while few + 1 < enough:
        half = (few + enough) // 2
        state = before.deep_copy()
        taken = state.try_consume_tokens(list(byte * half)) == half
        few, enough = (half, enough) if taken and state.compute_bitmask() == mask else (few, half)
    state = before.deep_copy()
    return byte * (size - 1 + enough) if state.try_consume_tokens([*byte * enough]) else None


def _random_way_on(node: LLMatcher, mask: bytes, choices: Sequence[int], most: int) -> bytes:
    """Try random texts, and remove the bytes that the first that works does not need."""
    choice = random.Random(0)
    for _ in range(_RANDOM_TEXTS):
        state, text = node.deep_copy(), b""
        while state.compute_bitmask() == mask and len(text) < most:
            byte = choice.choice(choices)
            state.consume_token(byte)
            text += bytes([byte])
        if len(text) == most:
            continue
        size = len(text)
        while size := size // 2:
            for at in reversed(range(0, len(text), size)):
                shorter = text[:at] + text[at + size :]
                text = shorter if _leads_on(node, mask, shorter) else text
        return text
    return b""


def _plain(mask: bytes) -> Sequence[int]:
    """Return the allowed bytes that are plain ASCII, or all allowed bytes if none are."""
    allowed = _set_bits(mask)
    return [byte for byte in allowed if byte in _PLAIN] or allowed


@functools.lru_cache(maxsize=4096)
def _set_bits(mask: bytes) -> tuple[int, ...]:
    bits = int.from_bytes(mask, "little")
    return tuple(byte for byte in range(256) if bits >> byte & 1)
