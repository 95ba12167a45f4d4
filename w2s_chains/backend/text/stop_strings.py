"""Where a text ends: ``find_stop`` and ``cut_at_stop`` an answer, ``end_of_chunk`` a chunk."""

from __future__ import annotations

from collections.abc import Sequence

from w2s_chains.backend.text.tokenizer import Tokenizer
from w2s_chains.core.asks import Until
from w2s_chains.core.hypothesis import Hypothesis


def find_stop(stop: Sequence[str], before: str, text: str) -> int | None:
    """Return how many characters of ``before + text`` to keep if a stop string ends in ``text``.

    If there are several stop strings, the one that is completed first counts, so that chunk
    borders make no difference.

    Args:
        stop: The stop strings.
        before: Text that was searched before; a stop string may begin there.
        text: New text.

    Returns:
        The number of characters before the stop string; None if none was completed.
    """
    response = before + text
    reach = max((len(s) for s in stop), default=1) - 1
    begin = max(len(before) - reach, 0)
    found = [(at + len(s), at) for s in stop if (at := response.find(s, begin)) >= 0]
    return min(found)[1] if found else None


def cut_at_stop(
    stop: Sequence[str],
    tokenizer: Tokenizer,
    parent: Hypothesis,
    text: str,
    ids: Sequence[int] | None,
    drift: float | None = None,
    n_tokens: int = 0,
) -> Hypothesis | None:
    """Return the finished child if a stop string ends in this chunk, else None.

    The child keeps the text before the stop string. If the stop string begins in earlier text,
    the child's parent is the last ancestor that lies wholly before it. A text that is cut
    inside a token has no token ids.

    Args:
        stop: The stop strings.
        tokenizer: The proposer's tokenizer.
        parent: The hypothesis that the chunk continues.
        text: The text of the chunk.
        ids: Its tokens; None if they are of another vocabulary than the proposer's.
        drift: The child's ``Hypothesis.drift``.
        n_tokens: Number of tokens of the chunk, if there are no ``ids``.
    """
    if not stop:
        return None
    before = parent.text_from(parent.n_chars - max(map(len, stop)))
    found = find_stop(stop, before, text)
    if found is None:
        return None
    cut = parent.n_chars - len(before) + found
    known = None if ids is None else list(ids)
    for anchor in parent.ancestors():
        if anchor.n_chars <= cut and not anchor.pending:
            break
        known = None if known is None or anchor.token_ids is None else [*anchor.token_ids, *known]
    else:
        raise AssertionError("the root lies before every stop string")
    rest = (parent.text_from(anchor.n_chars) + text)[: cut - anchor.n_chars]
    if known is None:
        count = parent.n_tokens - anchor.n_tokens + (n_tokens if ids is None else len(ids))
        return anchor.extend(rest, finish_reason="stop", n_tokens=count, drift=drift)
    context = tokenizer.context(anchor)
    texts = [tokenizer.decode_after(context, (), known[:n]) for n in range(len(known) + 1)]
    whole = texts.index((rest, ())) if (rest, ()) in texts else None
    return anchor.extend(
        rest,
        None if whole is None else tuple(known[:whole]),
        finish_reason="stop",
        vocabulary=None if whole is None else tokenizer.vocabulary,
        n_tokens=next(n for n, (seen, _) in enumerate(texts) if len(seen) >= len(rest)),
        drift=drift,
    )


def end_of_chunk(
    until: Until,
    tokenizer: Tokenizer,
    context: Sequence[int],
    pending: Sequence[int],
    ids: Sequence[int],
) -> int | None:
    """Return after how many of its tokens a chunk ends by its text; None if it may go on.

    Args:
        until: The strings that end it, or whether a word does.
        tokenizer: The tokenizer of the model that writes.
        context: Tokens before the chunk, without the pending ones.
        pending: Tokens before the chunk whose text belongs to it.
        ids: The tokens of the chunk so far.
    """
    before = ""
    for count in range(1, len(ids) + 1):
        text, _ = tokenizer.decode_after(context, pending, ids[:count])
        begins = text[len(before) :][:1].isspace()
        if until.word and begins and before.strip() and count > until.least:
            return count - 1
        if count >= until.least and any(string in text for string in until.strings):
            return count
        before = text
    return None
