"""``Nudging``: the tuned guide writes the words that the frozen model is uncertain of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from w2s_chains.core.asks import Until
from w2s_chains.core.hypothesis import Hypothesis
from w2s_chains.core.sampling import Real
from w2s_chains.search.base import Search, SearchStrategy, commit, expand

_CHUNK_TOKENS = 16
"""Tokens between two commits, and the most of a word. The first does not change an answer."""


class Nudging(SearchStrategy):
    """Let the frozen model write where it is certain, and the tuned guide where it is not.

    Fei et al. (2024), "Nudging: Inference-time Alignment of LLMs via Guided Decoding", arXiv
    2410.09300. Where the largest probability that the frozen model gives to any next token falls
    below ``threshold``, the tuned guide writes the next word, the nudging tokens, and the frozen
    model goes on from there. The end of the turn is a token like others, so that either may end the
    answer. Words are handed over as text, so the guide may have any vocabulary; with the frozen
    model's own, its token ids stay; with another one, a word replaces what the frozen model has
    begun of an unfinished character. The untuned guide takes no part.

    The answer is not scored on the way. It has no bound of its divergence (``kl``), since its words
    are no samples of the frozen model. Probabilities are those at temperature 1 without filters,
    whatever is sampled with; the paper samples greedily (``temperature: 0``).

    We differ from the authors' code in this. There the guide writes the first word of every answer,
    and it alone ends one. It goes on for further words until the frozen model is certain or agrees
    with its next word; here the frozen model is asked again after each word, by the threshold
    alone. A word ends before a token that begins with a space, so it may end with a line break.

    Attributes:
        threshold: The largest probability below which the guide writes, from 0 (never) to 1
            (always, but for tokens of probability 1). The paper has 0.4 for Llama 2 and 0.3 for
            other families.
    """

    type: Literal["nudging"] = "nudging"
    threshold: Annotated[float, Field(ge=0.0, le=1.0), Real] = 0.4

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"until", "by_guide"})

    @property
    def needs_scorer(self) -> bool:
        return False

    def search(self, root: Hypothesis) -> Search:
        certain, word = Until(top_probability=self.threshold, least=0), Until(word=True)
        answer = root
        while not answer.finished:
            begun = answer.n_tokens
            [answer] = yield from expand([answer], 1, _CHUNK_TOKENS, until=certain)
            uncertain = answer.n_tokens < begun + _CHUNK_TOKENS
            if uncertain and not answer.finished:
                [answer] = yield from expand([answer], 1, _CHUNK_TOKENS, until=word, by_guide=True)
            yield from commit(answer)
        return answer
