"""``pieces``: which piece of an answer's text each of its tokens adds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from w2s_chains.backend.text.incremental import common_prefix
from w2s_chains.backend.text.tokenizer import REACH, Tokenizer
from w2s_chains.core.hypothesis import Hypothesis


def pieces(
    tokenizer: Tokenizer,
    before: Sequence[int],
    ids: Sequence[int],
    hypothesis: Hypothesis,
    *,
    sampled: bool,
) -> list[str]:
    """Cut an answer's text into one piece for each of its tokens, in linear time.

    The pieces are what the tokens add one after another, so that the last token of a character that
    several tokens spell has the character. If the first token begins in the prompt, its piece has
    only what is of the answer. If the tokenizer has changed the text, for example composed its
    accents, the pieces are those of the unchanged text.

    Args:
        tokenizer: The tokenizer.
        before: Tokens before the answer's.
        ids: The answer's tokens.
        hypothesis: The answer.
        sampled: Whether a model wrote these tokens, so that the text was made of them.

    Returns:
        The pieces, which concatenate to the answer's text if it has any token.
    """
    text = hypothesis.response
    spelled = _spelled(tokenizer, before, ids)
    if not ids or "".join(spelled) == text:
        return spelled
    cuts = None if sampled else _places(tokenizer, ids, hypothesis)
    cuts = cuts or _moved(spelled, text, sampled)
    cuts[-1] = len(text)
    return [text[begin:end] for begin, end in zip([0, *cuts[:-1]], cuts, strict=True)]


def _spelled(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> list[str]:
    known = [*before[-REACH:], *ids]
    pending: tuple[int, ...] = ()
    found: list[str] = []
    for at in range(len(known) - len(ids), len(known)):
        end = at - len(pending)
        context = known[max(end - REACH, 0) : end]
        piece, pending = tokenizer.decode_after(context, pending, [known[at]])
        found.append(piece)
    return found


def _places(tokenizer: Tokenizer, ids: Sequence[int], hypothesis: Hypothesis) -> list[int] | None:
    """Return where in its text each token of an answer ends, as the tokenizer tells it.

    None if it does not tell, or if it cuts the text otherwise where control tokens count as such.
    """
    if not tokenizer.hf_tokenizer.is_fast:
        return None
    text = tokenizer.opening(hypothesis.prompt)[1]
    begin, text = len(text), text + hypothesis.response
    with tokenizer.lock:
        found = tokenizer.hf_tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
    if found["input_ids"][-len(ids) :] != list(ids):
        return None
    spans = found["offset_mapping"][-len(ids) :]
    # Tokens that share a character all have it in their spans; it belongs to the last of them.
    following = [*(start for start, _ in spans[1:]), len(text)]
    ends: list[int] = []
    at = begin
    for (_, end), start in zip(spans, following, strict=True):
        at = max(min(end, start), at)
        # An accent that was composed with its letter, or left out, is in no span.
        while at < start and unicodedata.combining(text[at]):
            at += 1
        ends.append(at - begin)
    return ends


def _moved(spelled: Sequence[str], text: str, sampled: bool) -> list[int]:
    """Return where each token's piece ends in a text of which the tokens spell only a part.

    What they spell alike at both sides keeps its tokens, and the rest goes to one of them.
    """
    joined = "".join(spelled)
    shorter = min(len(joined), len(text))
    begin, end = common_prefix(joined, text), common_prefix(joined[::-1], text[::-1])
    if sampled:
        end = min(end, shorter - begin)
    else:
        begin = min(begin, shorter - end)
    cuts: list[int] = []
    at = 0
    for piece in spelled:
        at += len(piece)
        if at <= begin:
            cuts.append(at)
        else:
            rest = len(joined) - at
            cuts.append(len(text) - rest if rest <= end else begin)
    return cuts
