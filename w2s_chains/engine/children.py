"""``check_children``: whether a proposer has answered what it was asked."""

from __future__ import annotations

from collections.abc import Sequence

from w2s_chains.core.asks import Expand
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.errors import ProposerError, shown

LONGEST = 256
"""Characters per token of ``max_tokens`` that a proposer may write without counting tokens."""


def check_children(request: Expand, children: Sequence[Hypothesis], proposer: str) -> None:
    """Refuse an answer that would lead the search astray, or let it run for ever.

    Args:
        request: What the proposer was asked.
        children: Its answer.
        proposer: Its name, for messages.

    Raises:
        ProposerError: There are too few or too many children, one of them continues another
            hypothesis than the request's, has no new token (unless ``Until.least`` allows
            that), or goes on beyond ``max_tokens``.
    """
    wanted = len(request.hypotheses) * request.successors
    if len(children) != wanted:
        raise ProposerError(
            f"the proposer {proposer} returned {len(children)} children where {wanted} were asked "
            "for; it must return len(hypotheses) * successors"
        )
    longest = request.sampling.max_tokens
    for place, child in enumerate(children):
        parent = request.hypotheses[place // request.successors]
        empty = request.until is not None and not request.until.least and child is parent
        wrong = "" if empty else _fault(child, parent, longest)
        if wrong:
            raise ProposerError(f"the proposer {proposer} returned a child that {wrong}")


def _fault(child: object, parent: Hypothesis, max_tokens: int) -> str:
    """Say what is wrong with a child, and how a proposer does it right; "" if nothing is."""
    if not isinstance(child, Hypothesis):
        return f"is {child!r}; return hypotheses: hypothesis.extend(text, ...)"
    # A stop string that began in an earlier chunk takes that chunk's end away, too.
    origin = parent.origin if child.finish_reason == "stop" else parent
    if child is parent or origin not in child.ancestors():
        return (
            f"does not continue {parent!r}: {child!r}; extend the hypotheses of the request, each "
            "in its turn"
        )
    if child.finished:
        return ""
    uncounted = child.n_tokens <= parent.n_tokens
    if uncounted and not (child.text and child.n_chars <= LONGEST * max_tokens):
        return (
            f"has no new token and is not finished: {shown(child)} ({child.n_tokens} tokens); give "
            "extend() token_ids or n_tokens, and a finish_reason to an answer that has ended"
        )
    if child.n_tokens >= max_tokens:
        return (
            f"is not finished with {child.n_tokens} tokens where max_tokens is {max_tokens}; give "
            "it the finish_reason 'length'"
        )
    return ""
